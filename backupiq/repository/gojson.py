"""JSON, names and times exactly as Go writes them, so that what we store hashes to the same ids as restic's.

Sources: Go's ``encoding/json`` (HTML escaping on), ``strconv.Quote`` and ``time.RFC3339Nano``; restic's design
document, "Trees and Data".
"""

from __future__ import annotations

import functools
import re
from typing import TypeVar

import msgspec

from backupiq.errors import RepositoryDamagedError, TreeError

_T = TypeVar("_T")

_NS = 1_000_000_000
_DAY = 86_400

# --- JSON ----------------------------------------------------------------------------------------------------------

_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)


def go_escape(json: bytes) -> bytes:
    """Turn msgspec's compact JSON into the bytes Go would write.

    The two agree but for ``<``, ``>``, ``&``, U+2028 and U+2029, which Go escapes. Backspace and form feed are written
    ``\\b`` and ``\\f`` by both since Go 1.22.
    """
    for plain, escaped in _ESCAPES:
        if plain in json:
            json = json.replace(plain, escaped)
    return json


def decode_json(
    decoder: msgspec.json.Decoder[_T], data: bytes | memoryview, kind: type[RepositoryDamagedError], what: str
) -> _T:
    """Decode with a typed msgspec decoder, raising ``kind`` ("``what`` is damaged") for every way that can fail."""
    try:
        return decoder.decode(data)
    except UnicodeDecodeError:
        reason = "not UTF-8"
    except RecursionError:
        reason = "nested too deeply"
    except (msgspec.MsgspecError, ValueError) as error:
        reason = str(error)
    raise kind(f"{what} does not hold what it should. {kind.hint}", reason=reason)


# --- names ---------------------------------------------------------------------------------------------------------

_SHORT = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    '"': '\\"',
    "\\": "\\\\",
}
_LONG = {short[1]: plain.encode() for plain, short in _SHORT.items()}
_ESCAPE = re.compile(
    r'\\(?:([abfnrtv"\\])|x([0-9a-fA-F]{2})|([0-3][0-7]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8}))', re.ASCII
)


def quote_name(raw: bytes) -> str:
    """The stored form of a file name: ``strconv.Quote`` without the outer quotes. Any bytes are allowed."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("utf-8", "surrogateescape")
    else:
        if text.isprintable() and '"' not in text and "\\" not in text:
            return text
    return "".join(map(_quote_character, text))


def _quote_character(character: str) -> str:
    short = _SHORT.get(character)
    if short is not None:
        return short
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape carries it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def unquote_name(quoted: str) -> bytes:
    """The raw bytes of a stored name, accepting all that ``strconv.Unquote`` accepts. Raises TreeError otherwise."""
    if "\\" not in quoted:
        return _plain(quoted)
    out = bytearray()
    position = 0
    while (start := quoted.find("\\", position)) >= 0:
        out += _plain(quoted[position:start])
        match = _ESCAPE.match(quoted, start)
        if match is None:
            raise TreeError(f"A name in a folder listing has an escape that is not known. {TreeError.hint}")
        short, byte, octal, narrow, wide = match.groups()
        if short is not None:
            out += _LONG[short]
        elif byte is not None:
            out.append(int(byte, 16))
        elif octal is not None:
            out.append(int(octal, 8))
        else:
            out += _plain_rune(int(narrow or wide, 16))
        position = match.end()
    out += _plain(quoted[position:])
    return bytes(out)


def _plain(text: str) -> bytes:
    if '"' in text or "\n" in text:
        raise TreeError(f"A name in a folder listing is not quoted as it should be. {TreeError.hint}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise TreeError(f"A name in a folder listing is not valid text. {TreeError.hint}") from None


def _plain_rune(code: int) -> bytes:
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise TreeError(f"A name in a folder listing has a character that does not exist. {TreeError.hint}")
    return chr(code).encode()


# --- times ---------------------------------------------------------------------------------------------------------


def format_time_ns(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339 in UTC ("Z"), fraction without trailing zeros; years clamped to 0..9999."""
    seconds, fraction = divmod(ns, _NS)
    text = _format_second(seconds)
    if not fraction:
        return text + "Z"
    if fraction % 10:
        return f"{text}.{fraction:09d}Z"
    return f"{text}.{fraction:09d}".rstrip("0") + "Z"


@functools.lru_cache(maxsize=16_384)
def _format_second(seconds: int) -> str:
    days, rest = divmod(seconds, _DAY)
    minutes, second = divmod(rest, 60)
    hour, minute = divmod(minutes, 60)
    return f"{_format_day(days)}T{hour:02d}:{minute:02d}:{second:02d}"


@functools.lru_cache(maxsize=4_096)
def _format_day(days: int) -> str:
    year, month, day = _civil(days)
    if not 0 <= year <= 9999:  # as restic's FixTime: only the year moves; the 29th of February becomes the 1st of March
        year = 0 if year < 0 else 9999
        if (month, day) == (2, 29) and year == 9999:
            month, day = 3, 1
    return f"{year:04d}-{month:02d}-{day:02d}"


def _civil(days: int) -> tuple[int, int, int]:
    """Year, month, day of a day counted from 1970-01-01, proleptic Gregorian, any year (datetime has no year 0)."""
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153  # months counted from March
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1


def _days(year: int, month: int, day: int) -> int:
    """The inverse of ``_civil``."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 719_468


_SECOND = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", re.ASCII)
_REST = re.compile(r"(?:\.(\d{1,40}))?(?:Z|([+-])(\d\d):(\d\d))", re.ASCII)


def parse_time_ns(text: str) -> int:
    """RFC 3339 with any offset to nanoseconds since 1970; digits beyond nanoseconds are cut off, as Go does.

    Raises RepositoryDamagedError when it is not such a time.
    """
    seconds = _parse_second(text[:19])
    if seconds is None:
        raise _bad_time()
    rest = text[19:]
    if rest == "Z":
        return seconds * _NS
    match = _REST.fullmatch(rest)
    if match is None:
        raise _bad_time()
    fraction, sign, hours, minutes = match.groups()
    if sign is not None:
        if hours > "23" or minutes > "59":
            raise _bad_time()
        offset = int(hours) * 3_600 + int(minutes) * 60
        seconds += offset if sign == "-" else -offset
    return seconds * _NS + (int(fraction[:9].ljust(9, "0")) if fraction else 0)


@functools.lru_cache(maxsize=16_384)
def _parse_second(text: str) -> int | None:
    match = _SECOND.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups())
    if not (1 <= month <= 12 and day >= 1 and hour <= 23 and minute <= 59 and second <= 59):
        return None
    days = _days(year, month, day)
    if _civil(days) != (year, month, day):  # the month has no such day
        return None
    return days * _DAY + hour * 3_600 + minute * 60 + second


def _bad_time() -> RepositoryDamagedError:
    return RepositoryDamagedError(f"A time in the repository is not a time. {RepositoryDamagedError.hint}")
