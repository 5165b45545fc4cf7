"""Picture files (PNG, JPEG, BMP, TIFF): one slice each, in the grey values they are stored in, never Hounsfield units.

Colours become their luma, transparency is dropped, palettes are resolved; the flags of the slice say so. 8 and 16 bits
are taken. Pictures of 8 bits share the range 0 .. 255. Those of 16 bits share none, so that each has its own, from its
lowest to its highest value. The range is kept as the slice's window.
"""

from __future__ import annotations

import io
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl_monai.ingest.hounsfield import LOWERED_BY, clip_to_int16, needs_lowering
from medssl_monai.store.verdicts import Reason, RejectedError

if TYPE_CHECKING:
    from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

PICTURE_MODALITY = "OT"
"""DICOM's word for "other" (PS3.3 C.7.3.1.1.1), where the caller does not name a modality."""

FEWEST_VALUES = 5
"""Grey values that an image has at least; masks and label maps have fewer."""

BROKEN = "is not readable as a picture: truncated or damaged"


class Picture(NamedTuple):
    """A picture as it goes to the store.

    Attributes:
        pixels: (H, W) int16 grey values.
        window: level and width of the range of its values, see above.
        flags: words of `verdicts.FLAGS` that hold for it.
    """

    pixels: NDArray[np.int16]
    window: tuple[float, float]
    flags: frozenset[str]


def read_picture(path: Path) -> Picture:
    """The grey values of a picture, 8 or 16 bits.

    Raises:
        RejectedError: it cannot be opened or decoded, claims to be too large, is several pictures in one file, has
            other values than whole numbers of 8 or 16 bits, or so few of them that it is a mask.
    """
    import cv2

    try:
        content = path.read_bytes()
    except OSError as error:
        raise RejectedError(Reason.UNREADABLE, f"cannot be opened ({type(error).__name__})") from error
    flags = _check_header(content)
    try:
        # As stored: neither turned by the orientation that a camera noted, nor converted to colour.
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise RejectedError(Reason.UNDECODABLE, BROKEN) from error
    if image is None or image.size == 0:
        raise RejectedError(Reason.UNDECODABLE, BROKEN)
    if image.dtype not in (np.uint8, np.uint16):
        detail = f"has values of type {image.dtype}; save it with 8 or 16 bits, or give DICOM or NIfTI"
        raise RejectedError(Reason.VALUE_RANGE, detail)
    grey, of_colours = _grey(np.asarray(image))
    if (few := _few_values(grey)) is not None:
        detail = f"has only the grey values {', '.join(map(str, few))}, as a mask or a label map has; take it out"
        raise RejectedError(Reason.VALUE_RANGE, detail)
    lowered = needs_lowering(int(grey.min()), int(grey.max()))
    pixels, clipped = clip_to_int16(grey.astype(np.int32) - LOWERED_BY if lowered else grey)
    low, high = (0, 255) if grey.dtype == np.uint8 else (int(pixels.min()), int(pixels.max()))
    window = (low + high) / 2, float(max(high - low, 1))
    return Picture(pixels, window, frozenset({*flags, *of_colours, *["clipped"] * clipped, *["lowered"] * lowered}))


def _few_values(grey: NDArray[Any]) -> list[int] | None:
    """The values of a picture that has fewer than `FEWEST_VALUES`, sorted; None of any other."""
    sample = np.unique(grey[:: max(1, grey.shape[0] // 16)])  # of most pictures a few rows are enough
    values = sample if len(sample) >= FEWEST_VALUES else np.unique(grey)
    return None if len(values) >= FEWEST_VALUES else values.tolist()


def picture_count(image: Image.Image) -> int:
    """How many pictures a file holds; a photograph with its preview (MPO) is one."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _check_header(content: bytes) -> list[str]:
    """What headers claim, before anything is decoded: a few bytes could claim gigabytes. Gives flags."""
    from PIL import Image

    try:
        if content.startswith(PNG_SIGNATURE):
            _check_chunks(content)
        with warnings.catch_warnings():
            # Pillow's own measure, some 89 million pixels: it warns, and refuses twice as many.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                count = picture_count(image)
                lossy = image.format in ("JPEG", "MPO") or "jpeg" in str(image.info.get("compression", ""))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        reason = f"claims more than {Image.MAX_IMAGE_PIXELS} pixels; no such picture is read"
        raise RejectedError(Reason.UNDECODABLE, reason) from error
    except Exception as error:  # Pillow's plugins raise what they like
        raise RejectedError(Reason.UNDECODABLE, BROKEN) from error
    if count > 1:
        raise RejectedError(Reason.MULTIFRAME, f"holds {count} pictures; save each as a file of its own")
    return ["lossy"] * lossy


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


def _grey(image: NDArray[Any]) -> tuple[NDArray[Any], list[str]]:
    """(H, W) from (H, W) or (H, W, channels) in OpenCV's order, and flags."""
    import cv2

    if image.ndim == 2:
        return image, []
    colours, alpha = image[..., :3], image[..., 3:]
    transparent = bool((alpha != np.iinfo(image.dtype).max).any())
    coloured = bool((colours != colours[..., :1]).any())
    grey = cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY) if coloured else np.ascontiguousarray(colours[..., 0])
    return grey, ["colour"] * coloured + ["transparent"] * transparent
