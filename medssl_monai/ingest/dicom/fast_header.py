"""Headers of ordinary DICOM files, read from their bytes without building objects for every element.

Ordinary is: a preamble, little endian, each element of a known type and whole, and those that are asked for hold ASCII
text or one integer of 16 bits. Of anything else nothing is said here, and pydicom reads the file. A header of 134
elements so takes a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

from pydicom.datadict import dictionary_VR, tag_for_keyword

TEXT_VRS = frozenset({"AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI"})
"""Value representations that are text with backslashes between values (PS3.5 6.2)."""

Fields = Mapping[int, tuple[str, str]]
"""What to read: tag to keyword and to its type in the standard's dictionary."""

_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Types whose length is written in 16 bits, and in 32 bits (PS3.5 7.1.2)."""

_DEFLATED, _BIG_ENDIAN, _IMPLICIT, _EXPLICIT = (f"1.2.840.10008.1.2{end}" for end in (".1.99", ".2", "", ".1"))

_PIXEL_DATA = 0x7FE00010
_FIRST_PIXELS = 0x7FE00008
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_DEEPEST = 16

_EXPLICIT_ELEMENT = Struct("<HH2sH").unpack_from
_IMPLICIT_ELEMENT = Struct("<HHL").unpack_from
_LENGTH = Struct("<L").unpack_from


class PlainHeader(NamedTuple):
    """What was asked for of a header.

    Attributes:
        values: by keyword, as stripped text; a tag that the file has not is missing here too.
        file_meta: the same of the file meta information.
        pixels: start and length of PixelData in the file, where they were asked for; of its only fragment where they
            are compressed.
    """

    values: Mapping[str, list[str]]
    file_meta: PlainHeader | None = None
    pixels: tuple[int, int] | None = None

    def __contains__(self, keyword: object) -> bool:
        """Whether the file has the tag, of those that were asked for."""
        return keyword in self.values


class _NotPlainError(Exception):
    """There is something in the file that pydicom should look at."""


class _NeedMoreError(Exception):
    """The bytes end before the header does."""


def asked_for(keywords: Sequence[str]) -> Fields:
    """Keywords of the standard as fields to read."""
    tags = {keyword: tag_for_keyword(keyword) for keyword in keywords}
    return {tag: (keyword, dictionary_VR(tag)) for keyword, tag in tags.items() if tag is not None}


@lru_cache(maxsize=1)
def _meta_fields() -> Fields:
    return asked_for(["TransferSyntaxUID", "MediaStorageSOPClassUID"])


def plain_header(data: bytes, fields: Fields, whole: bool) -> PlainHeader | None:
    """The header in a file's first bytes; None where it is not ordinary, or does not end within them.

    Args:
        data: the first bytes, or with `whole` all of them.
        fields: what to read.
        whole: read to the end of the file, PixelData and what follows too, instead of stopping before the pixels.
    """
    if data[128:132] != b"DICM":
        return None
    try:
        return _header(data, fields, whole)
    except (_NotPlainError, _NeedMoreError):
        return None


def deflated_start(data: bytes) -> int | None:
    """Where the compressed data set of a deflated object starts (PS3.5 A.5); None for any other file.

    Args:
        data: the first bytes of a file, in which its meta information ends.
    """
    meta: dict[str, list[str]] = {}
    try:
        start = _meta(data, meta) if data[128:132] == b"DICM" else 0
    except (_NotPlainError, _NeedMoreError):
        return None
    return start if meta.get("TransferSyntaxUID") == [_DEFLATED] else None


def split_text(content: bytes) -> list[str]:
    """ASCII text as its values, stripped."""
    values = content.decode("ascii").rstrip("\0 ").split("\\")
    return [one.strip() for one in values] if values != [""] else []


def _header(data: bytes, fields: Fields, whole: bool) -> PlainHeader:
    meta: dict[str, list[str]] = {}
    at = _meta(data, meta)
    syntax = "\\".join(meta.get("TransferSyntaxUID", ()))
    if not syntax.startswith("1.2.840.10008.1.2") or syntax in (_DEFLATED, _BIG_ENDIAN):
        raise _NotPlainError
    explicit, encapsulated = syntax != _IMPLICIT, syntax not in (_IMPLICIT, _EXPLICIT)
    if not explicit and data[at + 4 : at + 6].isalpha():  # written otherwise than its syntax says
        raise _NotPlainError
    values: dict[str, list[str]] = {}
    pixels = None
    end, last = len(data), 0
    while at < end:
        tag, vr, length, start = _element(data, at, explicit)
        if tag <= last or tag < 0x00040000 or tag >= _ITEM:
            raise _NotPlainError
        last = tag
        if tag >= _FIRST_PIXELS and not whole and tag <= _PIXEL_DATA:
            return PlainHeader(values, PlainHeader(meta))
        if length == _UNDEFINED:
            if tag == _PIXEL_DATA and whole and encapsulated:
                pixels = _only_fragment(data, start)
                at = sum(pixels) + 8
                continue
            if tag in fields or tag == _PIXEL_DATA:
                raise _NotPlainError
            at = _past_sequence(data, start, vr, explicit, 0)
            continue
        at = start + length
        if tag in fields:
            if at > end:
                raise _NeedMoreError
            keyword, known_vr = fields[tag]
            if tag == _PIXEL_DATA:
                if vr not in (b"OW", b"OB", b"") or encapsulated:
                    raise _NotPlainError
                pixels = start, length
            else:
                values[keyword] = _value(data[start:at], vr.decode("ascii") or known_vr)
    if not whole or at != end:
        raise _NeedMoreError
    return PlainHeader(values, PlainHeader(meta), pixels)


def _meta(data: bytes, meta: dict[str, list[str]]) -> int:
    """Reads the file meta information, which is always explicit; gives where it ends."""
    at, last, fields = 132, 0, _meta_fields()
    while data[at : at + 2] == b"\x02\x00":  # group 0002
        tag, vr, length, start = _element(data, at, True)
        at = start + length
        if tag <= last or length == _UNDEFINED:
            raise _NotPlainError
        if at >= len(data):
            raise _NeedMoreError
        last = tag
        if tag in fields:
            meta[fields[tag][0]] = _value(data[start:at], vr.decode("ascii"))
    return at


def _element(data: bytes, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
    """Tag, type (none where it is implicit), length, and where the value starts."""
    if at + 12 > len(data):
        raise _NeedMoreError
    if not explicit:
        group, element, length = _IMPLICIT_ELEMENT(data, at)
        return group << 16 | element, b"", length, at + 8
    group, element, vr, length = _EXPLICIT_ELEMENT(data, at)
    if vr in _SHORT:
        return group << 16 | element, vr, length, at + 8
    if vr in _LONG:
        return group << 16 | element, vr, _LENGTH(data, at + 8)[0], at + 12
    raise _NotPlainError


def _value(content: bytes, vr: str) -> list[str]:
    if vr in TEXT_VRS:
        if not content.isascii() or b"\x1b" in content:  # escapes switch the character set (PS3.5 6.1.2.5)
            raise _NotPlainError
        return split_text(content)
    if vr in ("US", "SS") and len(content) == 2:
        return [str(int.from_bytes(content, "little", signed=vr == "SS"))]
    raise _NotPlainError


def _past_sequence(data: bytes, at: int, vr: bytes, explicit: bool, depth: int) -> int:
    """Where a sequence of undefined length ends (PS3.5 7.5)."""
    if vr != b"SQ" or depth > _DEEPEST:
        raise _NotPlainError
    while True:
        tag, length = _delimiter(data, at)
        at += 8
        if tag == _SEQUENCE_END and length == 0:
            return at
        if tag != _ITEM:
            raise _NotPlainError
        at = _past_item(data, at, None if length == _UNDEFINED else at + length, explicit, depth)


def _only_fragment(data: bytes, at: int) -> tuple[int, int]:
    """Start and length of the one fragment after the offset table; the end of the sequence follows it (PS3.5 A.4)."""
    tag, length = _delimiter(data, at)
    at += 8 + length
    following, length = _delimiter(data, at)
    start = at + 8
    if (tag, following) != (_ITEM, _ITEM) or _delimiter(data, start + length) != (_SEQUENCE_END, 0):
        raise _NotPlainError
    return start, length


def _past_item(data: bytes, at: int, end: int | None, explicit: bool, depth: int) -> int:
    while at != end:
        tag, vr, length, start = _item_element(data, at, explicit)
        if tag == _ITEM_END:
            if end is not None or length != 0:
                raise _NotPlainError
            return start
        at = _past_sequence(data, start, vr, explicit, depth + 1) if length == _UNDEFINED else start + length
        if end is not None and at > end:
            raise _NotPlainError
    return at


def _item_element(data: bytes, at: int, explicit: bool) -> tuple[int, bytes, int, int]:
    if data[at : at + 4] == b"\xfe\xff\x0d\xe0":
        return (*_delimiter(data, at)[:1], b"", _delimiter(data, at)[1], at + 8)
    return _element(data, at, explicit)


def _delimiter(data: bytes, at: int) -> tuple[int, int]:
    if at + 8 > len(data):
        raise _NeedMoreError
    group, element, length = _IMPLICIT_ELEMENT(data, at)
    return group << 16 | element, length
