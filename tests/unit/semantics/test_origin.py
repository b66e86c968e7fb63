"""Where a file was downloaded from, and that nothing but the host's name is ever told."""

from __future__ import annotations

import plistlib
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.discovery.entry import Directory, EntryKind, FileEntry
from backupiq.semantics.origin import MAX_VALUE_BYTES, UNKNOWN_HOST, download_origin, zone_files

FILE = FileEntry(b"a.pdf", EntryKind.FILE, 1, 0, 0, 0, 0, 0o100644, 0, 0, 1, 0)
FOLDER = FileEntry(b"a", EntryKind.DIR, 1, 0, 0, 0, 0, 0o040755, 0, 0, 1, 0)
XDG, MAC, ZONE = "user.xdg.origin.url", "com.apple.metadata:kMDItemWhereFroms", "Zone.Identifier"


def origin(attributes: Mapping[str, bytes], *, zone: bytes = b"", entry: FileEntry = FILE) -> str:
    return download_origin(b"/home/a.pdf", entry, lambda path: attributes, zone=zone)


def where_froms(*urls: object) -> bytes:
    return plistlib.dumps(list(urls), fmt=plistlib.FMT_BINARY)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (b"https://files.example.org/a.pdf?token=hush#x", "files.example.org"),
        (b"https://me:hush@Example.ORG:8443/hush", "example.org"),
        (b"ftp://192.0.2.7/x", "192.0.2.7"),
        (b"https://[2001:db8::1]/x", "2001:db8::1"),
        (b"blob:https://mail.example.org/0-1-2", "mail.example.org"),
        ("https://bücher.example/x".encode(), "xn--bcher-kva.example"),
        (b"https://example.org./", "example.org"),
        (b"https://example.org\0", "example.org"),
        (b"file:///home/hush/a.pdf", ""),
        (b"file://server/share/a.pdf", ""),
        (b"data:text/plain,hush", ""),
        (b"javascript:hush", ""),
        (b"https://", ""),
        (b"https://[oops/", ""),
        (b"https://ho st/", ""),
        (b"https://" + b"a" * 300 + b".org/", ""),
        (b"hush", ""),
        (b"\xff\xfe\x00", ""),
        (b"", ""),
    ],
)
def test_of_an_address_only_the_host_is_told(url: bytes, host: str) -> None:
    assert origin({XDG: url}) == host


def test_a_file_without_marks_has_no_origin() -> None:
    assert origin({}) == origin({"user.comment": b"https://example.org/"}) == ""


def test_a_folder_has_no_origin() -> None:
    assert origin({XDG: b"https://example.org/"}, entry=FOLDER) == ""


def test_the_referrer_stands_in_for_an_address_that_names_no_host() -> None:
    marks = {XDG: b"data:x", "user.xdg.referrer.url": b"https://shop.example/page"}
    assert origin(marks) == "shop.example"


@pytest.mark.parametrize("name", [MAC, "user." + MAC])
def test_a_macs_list_gives_its_first_address_that_names_a_host(name: str) -> None:
    assert origin({name: where_froms("data:x", "https://dl.example.com/x?token=hush", "https://b.example/")}) == (
        "dl.example.com"
    )


@pytest.mark.parametrize(
    "value",
    [
        where_froms(),
        where_froms(1, b"https://example.org/", None or False),
        plistlib.dumps(["https://example.org/"], fmt=plistlib.FMT_XML),
        where_froms("https://example.org/" + "x" * MAX_VALUE_BYTES),
        b"bplist00" + b"\xff" * 40,
        b"bplist00",
    ],
    ids=["empty", "other-kinds", "xml", "too-long", "damaged", "cut"],
)
def test_a_macs_list_that_is_no_list_of_addresses_counts_as_none(value: bytes) -> None:
    assert origin({MAC: value}) == ""


@pytest.mark.parametrize(
    ("zone", "host"),
    [
        (b"[ZoneTransfer]\r\nZoneId=3\r\nReferrerUrl=https://a.example/\r\nHostUrl=https://b.example/?x", "b.example"),
        (b"[ZoneTransfer]\r\nZoneId=3\r\nReferrerUrl=https://a.example/\r\nHostUrl=about:internet\r\n", "a.example"),
        (b"[ZoneTransfer]\r\nZoneId=3\r\n", UNKNOWN_HOST),
        (b"\xef\xbb\xbfzoneid = 4\nHOSTURL=about:internet", UNKNOWN_HOST),
        ("[ZoneTransfer]\r\nZoneId=3\r\nHostUrl=https://c.example/\r\n".encode("utf-16"), "c.example"),
        (b"[ZoneTransfer]\r\nZoneId=0\r\n", ""),
        (b"[ZoneTransfer]\r\nZoneId=99999999999999999999\r\n", ""),
        (b"\0\1\2", ""),
    ],
)  # fmt: skip
def test_a_zone_tells_the_host_or_at_least_that_it_was_a_download(zone: bytes, host: str) -> None:
    assert origin({ZONE: zone}) == origin({"user." + ZONE: zone}) == origin({}, zone=zone) == host


def test_attributes_that_cannot_be_read_are_as_none() -> None:
    def refuse(path: bytes) -> Mapping[str, bytes]:
        raise PermissionError(path)

    assert download_origin(b"/a", FILE, refuse) == ""
    assert download_origin(b"/a", FILE, refuse, zone=b"HostUrl=https://a.example/") == "a.example"


def test_the_files_beside_a_download_are_found_and_read_within_the_limit() -> None:
    names = [b"a.pdf", b"a.pdf:Zone.Identifier", b"b.pdf", b"c.pdf:Zone.Identifier", b"d:Zone.Identifier"]
    children = [FileEntry(name, EntryKind.FILE, 1, 0, 0, 0, 0, 0o100644, 0, 0, 1, 0) for name in names[:-1]]
    children.append(FileEntry(names[-1], EntryKind.DIR, 0, 0, 0, 0, 0, 0o040755, 0, 0, 1, 0))

    def read(path: bytes, limit: int) -> bytes:
        assert limit == MAX_VALUE_BYTES
        if path.startswith(b"/mnt/c/c.pdf"):
            raise OSError(path)
        return path

    found = zone_files(Directory(b"/mnt/c", FOLDER, children), read)
    assert found == {b"a.pdf": b"/mnt/c/a.pdf:Zone.Identifier"}


@given(
    st.dictionaries(
        st.sampled_from([XDG, MAC, ZONE]),
        st.one_of(
            st.binary(max_size=200),
            st.binary(max_size=100).map(lambda data: b"bplist00" + data),
            st.binary(max_size=60).map(lambda data: where_froms("https://hush.example/")[:-20] + data),
            st.text(max_size=60).map(lambda text: b"https://" + text.encode("utf-8", "surrogatepass")),
        ),
    ),
    st.binary(max_size=100),
)
def test_whatever_the_marks_hold_a_host_or_nothing_comes_out(marks: dict[str, bytes], zone: bytes) -> None:
    found = origin(marks, zone=zone)
    assert len(found) <= 253
    assert found.isascii()
    assert not set(found) & set(" /@?#%\0\n")
