"""Values of DICOM tags, tolerantly: what is missing, empty or malformed reads as nothing.

pydicom's warnings and messages may quote a tag's content, so that neither is let out of here. Plain text and small
integers are read from the file's bytes, which takes a tenth of pydicom's time; it interprets all else.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import lru_cache
from typing import Any

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import BaseTag, Tag

from medssl_monai.ingest.dicom.fast_header import TEXT_VRS, PlainHeader, split_text
from medssl_monai.store.verdicts import Reason, RejectedError

SILENT = logging.CRITICAL + 1

EXACT = 2.0**53
"""Up to here a float holds every integer."""


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom neither warns nor logs: what it says quotes values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    if level == SILENT:
        yield
        return
    logger.setLevel(SILENT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def reading() -> Iterator[None]:
    """pydicom's view of a broken file becomes a `RejectedError`; it is quiet meanwhile."""
    try:
        with quiet():
            yield
    except RejectedError:
        raise
    except InvalidDicomError as error:
        raise RejectedError(Reason.NOT_AN_IMAGE_FILE, "is neither DICOM nor another image that can be read") from error
    except Exception as error:  # pydicom lets through whatever its parsers meet: struct, zlib, key, value errors
        raise RejectedError(
            Reason.UNREADABLE, f"is not readable as DICOM ({type(error).__name__}): truncated or damaged"
        ) from error


def _value(dataset: Any, keyword: str) -> Any:
    """A tag's value, None where it is missing, empty, or not what its type demands."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return dataset.get(keyword)
        except Exception:  # a malformed value is as good as none; which exception it gives varies with the type
            return None


def texts(dataset: Any, keyword: str) -> list[str]:
    """All values as stripped text."""
    if isinstance(dataset, PlainHeader):
        return dataset.values.get(keyword, [])
    dataset, keyword = _place(dataset, keyword)
    if isinstance(dataset, Dataset):
        plain = _plain(dataset, keyword)
        if plain is not None:
            return plain
    value = _value(dataset, keyword)
    if value is None or value == "":
        return []
    many = not isinstance(value, (str, bytes)) and hasattr(value, "__iter__")
    return [str(one).strip() for one in value] if many else [str(value).strip()]


def _place(dataset: Any, keyword: str) -> tuple[Any, str]:
    """Where a tag stands: in a functional group, for a frame of an enhanced object (see `frames.FrameHeader`)."""
    return (dataset, keyword) if isinstance(dataset, Dataset) else dataset.place(keyword)


def has_content(dataset: Any, keyword: str) -> bool:
    """Whether a tag is there and not empty, readable or not."""
    if isinstance(dataset, PlainHeader):
        return bool(dataset.values.get(keyword))
    dataset, keyword = _place(dataset, keyword)
    try:
        content = dataset.get_item(keyword)
    except Exception:  # damaged, and so not empty
        return True
    return content is not None and content.value not in (None, b"", "") and bool(str(content.value).strip())


def items(dataset: Any, keyword: str) -> list[Any]:
    """A sequence's items; none where it is missing, empty or broken."""
    if isinstance(dataset, PlainHeader):  # which has no sequences
        return []
    dataset, keyword = _place(dataset, keyword)
    with quiet():
        try:
            return list(dataset.get(keyword) or ())
        except Exception:  # what a broken sequence raises varies with the damage
            return []


def first_item(dataset: Any, keyword: str) -> Any:
    """The first item of a sequence; None where there is none."""
    return next(iter(items(dataset, keyword)), None)


def _plain(dataset: Dataset, keyword: str) -> list[str] | None:
    """All values of a tag that is missing, ASCII text, or one 16-bit integer; None where pydicom must look at it."""
    tag, known_vr = _tag_and_vr(keyword)
    try:
        raw: Any = dataset.get_item(tag)  # converts what has no content, where damage shows
    except Exception:  # pydicom converts empty values here, and what damage raises varies; `_value` looks at it again
        return None
    if raw is None:
        return []
    if not isinstance(raw, RawDataElement) or not isinstance(raw.value, bytes):
        return None
    vr, content = raw.VR or known_vr, raw.value
    if vr in TEXT_VRS:
        if not content.isascii() or b"\x1b" in content:  # escapes switch the character set (PS3.5 6.1.2.5)
            return None
        return split_text(content)
    if vr in ("US", "SS") and len(content) == 2:
        return [str(int.from_bytes(content, "little" if raw.is_little_endian else "big", signed=vr == "SS"))]
    return None


@lru_cache(maxsize=256)
def _tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return Tag(tag), dictionary_VR(tag)


def text(dataset: Any, keyword: str) -> str:
    """The values as one text, parted by backslashes as in the file; empty for none."""
    return "\\".join(texts(dataset, keyword))


def decimal(content: str) -> float:
    """A decimal string as a number; programs under some locales write a comma for its point.

    Raises:
        ValueError: it is no number.
    """
    return float(content.replace(",", ".") if content.count(",") == 1 and "." not in content else content)


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    try:
        values = tuple(decimal(one) for one in texts(dataset, keyword))
    except ValueError:
        return None
    return values if len(values) == count and all(map(math.isfinite, values)) else None


def number(dataset: Any, keyword: str) -> float | None:
    """The first value, finite, or None."""
    try:
        value = decimal(texts(dataset, keyword)[0])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def day(dataset: Any, keyword: str) -> int | None:
    """A date as the number of its day (`date.toordinal`), or None; also as written before DICOM (2019.12.31)."""
    digits = "".join(texts(dataset, keyword)[:1]).replace(".", "")
    if len(digits) != 8 or not digits.isdecimal():
        return None
    try:
        return date(int(digits[:4]), int(digits[4:6]), int(digits[6:])).toordinal()
    except ValueError:
        return None


def integer(dataset: Any, keyword: str) -> int | None:
    """The first value cut to an integer; None also beyond 2^53, where numbers of 20 digits would stand for others."""
    value = number(dataset, keyword)
    return None if value is None or abs(value) > EXACT else int(value)
