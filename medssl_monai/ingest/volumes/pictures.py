"""PNG and JPEG pictures: one slice each, in the values they are stored in. They are never Hounsfield units."""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.ingest.hounsfield import LOWERED_BY, HounsfieldSlice, clip_to_int16, needs_lowering
from medssl_monai.store.verdicts import Reason, RejectedError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PICTURE_MODALITY = "OT"
"""DICOM's word for "other" (PS3.3 C.7.3.1.1.1), where the caller does not name a modality."""


def read_picture(path: Path) -> HounsfieldSlice:
    """The grey values of a picture, 8 or 16 bits; colours that are all grey count as grey.

    Raises:
        RejectedError: it cannot be opened or decoded, claims to be too large, or shows colour.
    """
    import cv2

    try:
        content = path.read_bytes()
    except OSError as error:
        raise RejectedError(Reason.UNREADABLE, f"cannot be opened ({type(error).__name__})") from error
    _check_size(content)
    try:
        # As stored: neither turned by the orientation that a camera noted, nor converted to colour.
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise RejectedError(Reason.UNDECODABLE, "is not readable as a picture: truncated or damaged") from error
    if image is None or image.size == 0:
        raise RejectedError(Reason.UNDECODABLE, "is not readable as a picture: truncated or damaged")
    grey = _grey(np.asarray(image))
    lowered = needs_lowering(int(grey.min()), int(grey.max()))
    pixels, clipped = clip_to_int16(grey.astype(np.int32) - LOWERED_BY if lowered else grey)
    lossy = not path.name.lower().endswith(".png")
    return HounsfieldSlice(pixels, frozenset(["clipped"] * clipped + ["lossy"] * lossy + ["lowered"] * lowered))


def _check_size(content: bytes) -> None:
    """What headers claim, before anything is decoded: a few bytes could claim gigabytes."""
    from PIL import Image

    try:
        if content.startswith(PNG_SIGNATURE):
            _check_chunks(content)
        with warnings.catch_warnings():
            # Pillow's own measure, some 89 million pixels: it warns, and refuses twice as many.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.open(io.BytesIO(content)).close()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"claims more than {Image.MAX_IMAGE_PIXELS} pixels; no such picture is read"
        raise RejectedError(Reason.UNDECODABLE, reason) from error
    except Exception as error:  # Pillow's plugins raise what they like
        raise RejectedError(Reason.UNDECODABLE, "is not readable as a picture: truncated or damaged") from error


def _check_chunks(content: bytes) -> None:
    """OpenCV takes memory for a PNG's chunk by the length that it claims (ISO/IEC 15948, 5.3)."""
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        place += 12 + length  # length, kind, data, checksum
        if place > len(content):
            raise ValueError(f"chunk {kind!r} ends beyond the file")
        if kind == b"IEND":
            return


def _grey(image: NDArray[Any]) -> NDArray[Any]:
    """(H, W) from (H, W) or (H, W, channels)."""
    if image.ndim == 2:
        return image
    colours, alpha = image[..., :3], image[..., 3:]
    highest = np.iinfo(image.dtype).max
    if (colours != colours[..., :1]).any() or (alpha != highest).any():
        raise RejectedError(Reason.COLOUR, "is a colour or transparent picture; only grey values are measurements")
    return np.ascontiguousarray(colours[..., 0])
