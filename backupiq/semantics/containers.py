"""What is inside the containers that many formats share, as far as a file's beginning tells."""

from __future__ import annotations

import struct
from collections.abc import Callable

Inside = tuple[str, str]
"""A format's name, and its family when that is not the one of the format's own signature."""

ZIP_MEMBERS_LOOKED_AT = 64
"""Members of a ZIP archive whose names are read; what a format is known by stands at the front."""
ZIP_MAGIC = b"PK\x03\x04"

ZIP_BY_MIMETYPE = {
    b"application/epub+zip": "EPUB",
    b"application/vnd.oasis.opendocument.text": "OpenDocument text",
    b"application/vnd.oasis.opendocument.spreadsheet": "OpenDocument spreadsheet",
    b"application/vnd.oasis.opendocument.presentation": "OpenDocument presentation",
    b"application/vnd.oasis.opendocument.graphics": "OpenDocument drawing",
    b"application/vnd.oasis.opendocument.formula": "OpenDocument formula",
    b"application/vnd.oasis.opendocument.base": "LibreOffice database",
    b"application/x-krita": "Krita document",
    b"image/openraster": "OpenRaster",
    b"application/hwp+zip": "Hangul document (XML)",
}
ZIP_BY_MEMBER = (
    (b"word/", "Word document"),
    (b"xl/", "Excel workbook"),
    (b"ppt/", "PowerPoint presentation"),
    (b"visio/", "Visio drawing"),
    (b"AndroidManifest.xml", "Android package"),
    (b"classes.dex", "Android package"),
    (b"META-INF/MANIFEST.MF", "Java archive"),
    (b"FixedDocSeq.fdseq", "XPS document"),
    (b"doc.kml", "Google Earth archive"),
    (b"3D/3dmodel.model", "3MF model"),
    (b"extension.vsixmanifest", "VS Code extension"),
    (b"Payload/", "iOS app"),
    (b"AppxManifest.xml", "Windows app package"),
)
"""Beginning of a member's name -> the format. The first that any member has decides."""
ZIP_BY_MEMBER_END = (
    (b".dist-info/WHEEL", "Python wheel"),
    (b".dist-info/METADATA", "Python wheel"),
    (b".nuspec", "NuGet package"),
)

BRANDS = {
    b"heic": "HEIF", b"heix": "HEIF", b"heim": "HEIF", b"heis": "HEIF", b"hevc": "HEIF", b"mif1": "HEIF",
    b"msf1": "HEIF", b"avif": "AVIF", b"avis": "AVIF", b"crx ": "Canon raw (CR3)",
    b"qt  ": "QuickTime", b"M4A ": "MPEG-4 audio", b"M4B ": "MPEG-4 audio", b"M4P ": "MPEG-4 audio",
}  # fmt: skip
"""Major brand of an ISO media file -> format. 3g* is 3GPP, everything else MP4."""
OWN_BRANDS = frozenset({"HEIF", "AVIF", "Canon raw (CR3)"})
RIFF_FORMS = {
    b"WAVE": "WAV", b"AVI ": "AVI", b"WEBP": "WebP", b"ACON": "Animated cursor", b"RMID": "MIDI", b"sfbk": "SoundFont",
}  # fmt: skip
OLE_STREAMS = (
    ("EncryptedPackage", "Encrypted Office document"),
    ("WordDocument", "Word 97 document"),
    ("Workbook", "Excel 97 workbook"),
    ("PowerPoint Document", "PowerPoint 97 presentation"),
    ("VisioDocument", "Visio 2003 drawing"),
    ("__properties_version1.0", "Outlook message"),
)
JAVA_OLDEST = 45
"""Major version of the first class files; the number at that place in a Mach-O file for several machines is smaller."""
BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
TRANSPORT_PACKET = 188


def look_inside(head: bytes) -> Inside | None:
    """The format of a file that begins as a known container does, or None."""
    reader = _READERS.get(head[:4]) or _READERS.get(head[:2])
    if reader is not None:
        found = reader(head)
        if found is not None:
            return found
    if head[4:8] in _MEDIA_BOXES and head[:1] == b"\0":
        return _iso_media(head)
    if head[:1] == b"\x47" or head[4:5] == b"\x47":
        return _transport_stream(head)
    return None


def _zip(head: bytes) -> Inside | None:
    if head[:4] in (b"PK\x05\x06", b"PK\x07\x08"):
        return "ZIP archive", "zip"
    names = _zip_names(head)
    if names and names[0] == b"mimetype":
        start = 30 + 8 + int.from_bytes(head[28:30], "little")
        for mime, name in ZIP_BY_MIMETYPE.items():
            if head.startswith(mime, start) and head[start + len(mime) : start + len(mime) + 1] != b"-":
                return name, "zip"
    for beginning, name in ZIP_BY_MEMBER:
        if any(one.startswith(beginning) for one in names):
            return name, "zip"
    for end, name in ZIP_BY_MEMBER_END:
        if any(one.endswith(end) for one in names):
            return name, "zip"
    return "ZIP archive", "zip"


def _zip_names(head: bytes) -> list[bytes]:
    """Names of the members whose headers stand in ``head``. Sizes are not trusted: the next header is looked for."""
    names: list[bytes] = []
    at = head.find(ZIP_MAGIC)
    while at >= 0 and len(names) < ZIP_MEMBERS_LOOKED_AT:
        length = int.from_bytes(head[at + 26 : at + 28], "little")
        names.append(head[at + 30 : at + 30 + min(length, 512)])
        at = head.find(ZIP_MAGIC, at + 30)
    return names


def _ole(head: bytes) -> Inside | None:
    if not head.startswith(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return None
    for stream, name in OLE_STREAMS:
        if stream.encode("utf-16-le") in head:
            return name, "ole"
    return "OLE document", "ole"


def _riff(head: bytes) -> Inside | None:
    name = RIFF_FORMS.get(head[8:12])
    return (name, "") if name else None


def _form(head: bytes) -> Inside | None:
    return ("AIFF", "") if head[8:12] in (b"AIFF", b"AIFC") else None


def _iso_media(head: bytes) -> Inside | None:
    if head[4:8] != b"ftyp":
        return "QuickTime", "isobmff"
    brand = head[8:12]
    name = BRANDS.get(brand) or ("3GPP video" if brand.startswith(b"3g") else "MP4")
    if name == "HEIF" and b"avif" in head[16:64]:
        name = "AVIF"
    return name, "" if name in OWN_BRANDS else "isobmff"


def _ebml(head: bytes) -> Inside | None:
    return ("WebM", "ebml") if b"webm" in head[:64] else ("Matroska", "ebml")


def _ogg(head: bytes) -> Inside | None:
    first = head[28:64]
    if b"\x80theora" in first or b"fishead" in first:
        return "Ogg video", "ogg"
    return ("Opus", "ogg") if b"OpusHead" in first else ("Ogg audio", "ogg")


def _java_or_mach_o(head: bytes) -> Inside | None:
    if len(head) < 8:
        return None
    return ("Java class", "") if int.from_bytes(head[6:8], "big") >= JAVA_OLDEST else ("Mach-O", "mach-o")


def _dos(head: bytes) -> Inside | None:
    """A program for Windows has its own header where the one for DOS points to; one for DOS alone says so."""
    if len(head) < 64:
        return None
    at = int.from_bytes(head[60:64], "little")
    if head[at : at + 4] == b"PE\0\0" or head[at : at + 2] in (b"NE", b"LE", b"LX") or b"DOS mode" in head[:512]:
        return "Windows executable", "pe"
    return None


def _bmp(head: bytes) -> Inside | None:
    if len(head) < 18 or struct.unpack_from("<I", head, 14)[0] not in BMP_HEADERS or any(head[6:10]):
        return None
    return "BMP", ""


def _transport_stream(head: bytes) -> Inside | None:
    """Packets of 188 bytes that begin with 0x47; cameras put a time of four bytes before each."""
    for start, step in ((0, TRANSPORT_PACKET), (4, TRANSPORT_PACKET + 4)):
        if head[start::step][:5] == b"\x47" * 5:
            return "MPEG transport stream", ""
    return None


_MEDIA_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"pnot"})
_READERS: dict[bytes, Callable[[bytes], Inside | None]] = {
    ZIP_MAGIC: _zip,
    b"PK\x05\x06": _zip,
    b"PK\x07\x08": _zip,
    b"\xd0\xcf\x11\xe0": _ole,
    b"RIFF": _riff,
    b"FORM": _form,
    b"\x1a\x45\xdf\xa3": _ebml,
    b"OggS": _ogg,
    b"\xca\xfe\xba\xbe": _java_or_mach_o,
    b"MZ": _dos,
    b"BM": _bmp,
}
