"""Values of DICOM tags, tolerantly: what is missing, empty or malformed reads as nothing.

pydicom's warnings and messages may quote a tag's content, so that neither is let out of here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pydicom.errors import InvalidDicomError

from medssl_monai.ingest.verdicts import Reason, RejectedError

__all__ = ["integer", "number", "numbers", "quiet", "reading", "text", "texts"]


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom neither warns nor logs: what it says quotes values."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
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
    value = _value(dataset, keyword)
    if value is None or value == "":
        return []
    many = not isinstance(value, (str, bytes)) and hasattr(value, "__iter__")
    return [str(one).strip() for one in value] if many else [str(value).strip()]


def text(dataset: Any, keyword: str) -> str:
    """The values as one text, parted by backslashes as in the file; empty for none."""
    return "\\".join(texts(dataset, keyword))


def numbers(dataset: Any, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    try:
        values = tuple(float(one) for one in texts(dataset, keyword))
    except ValueError:
        return None
    return values if len(values) == count and bool(np.isfinite(values).all()) else None


def number(dataset: Any, keyword: str) -> float | None:
    """The first value, finite, or None."""
    try:
        value = float(texts(dataset, keyword)[0])
    except (IndexError, ValueError):
        return None
    return value if np.isfinite(value) else None


def integer(dataset: Any, keyword: str) -> int | None:
    """The first value cut to an integer, or None."""
    value = number(dataset, keyword)
    return None if value is None else int(value)
