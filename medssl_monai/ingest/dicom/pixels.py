"""The pixels of a DICOM image: without junk beside the stored bits, and in Hounsfield units where it is CT."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray

from medssl_monai.ingest.dicom.decode import Decoded, decode, decode_once, plain
from medssl_monai.ingest.dicom.instance import UNCOMPRESSED_SYNTAXES, Instance
from medssl_monai.ingest.dicom.tags import integer, quiet, reading, text
from medssl_monai.ingest.hounsfield import (
    LOWERED_BY,
    PADDING_HU,
    HounsfieldSlice,
    clip_to_int16,
    padding_mask,
    rescale,
    sample_of,
    to_slice,
)
from medssl_monai.store.verdicts import Reason, RejectedError

CELL_SYNTAXES = UNCOMPRESSED_SYNTAXES | {"1.2.840.10008.1.2.5"}
"""Transfer syntaxes that keep pixel cells bit by bit, RLE among them; the others keep the values in them."""


def read_pixels(
    instance: Instance, lowered: bool = False, samples: list[NDArray[Any]] | None = None
) -> HounsfieldSlice:
    """The image of an instance: HU for CT, the stored values for other modalities; orientation as stored.

    Args:
        instance: which.
        lowered: subtract 32768 where the values have no sign and are not HU.
        samples: is given some of the HU of CT, padding that no tag declares among them (see `hounsfield.sample_of`).

    Raises:
        RejectedError: the pixels cannot be decoded.
    """
    ordinary = plain(instance.content) if instance.frame is None else None
    if ordinary is not None:
        return _checked(instance, ordinary, lowered, samples)
    with quiet():
        return _read_pixels(instance, lowered, samples)


def _read_pixels(instance: Instance, lowered: bool, samples: list[NDArray[Any]] | None) -> HounsfieldSlice:
    if instance.frame is None:
        dataset, raw, known = decode(instance.content)
    else:
        with reading():
            status = instance.content.stat()
        dataset, frames, known = decode_once(instance.content, status.st_mtime_ns, status.st_size)
        frames = frames[None] if frames.ndim == 2 else frames
        raw = frames[instance.frame] if instance.frame < len(frames) else frames
    return _checked(instance, Decoded(dataset, raw, known), lowered, samples)


def _checked(
    instance: Instance, decoded: Decoded, lowered: bool, samples: list[NDArray[Any]] | None
) -> HounsfieldSlice:
    dataset, raw, known = decoded
    if raw.shape != instance.shape:
        raise RejectedError(Reason.UNDECODABLE, "the decoded image has another shape than its Rows and Columns say")
    ct = instance.modality == "CT"
    found = _hu(instance, dataset, raw, samples) if ct else _as_stored(instance, dataset, raw, lowered)
    return found._replace(flags=found.flags | known)


def _as_stored(instance: Instance, dataset: Any, raw: NDArray[Any], lowered: bool) -> HounsfieldSlice:
    """The stored values; X-rays stored white on black (MONOCHROME1) turned over."""
    stored = _significant_bits(raw, dataset)
    inverted = instance.photometric == "MONOCHROME1"
    lowered = lowered and integer(dataset, "PixelRepresentation") == 0
    values = _turned_over(stored, dataset) if inverted else stored
    pixels, clipped = clip_to_int16(values - LOWERED_BY if lowered else values)
    junk = _has_high_bits(raw, dataset)
    names = {"clipped": clipped, "high_bits": junk, "inverted": inverted, "lowered": lowered}
    return HounsfieldSlice(pixels, frozenset(name for name, holds in names.items() if holds))


def _hu(instance: Instance, dataset: Any, raw: NDArray[Any], samples: list[NDArray[Any]] | None) -> HounsfieldSlice:
    simple = _simple_hu(instance, dataset, raw)
    if simple is not None:
        if samples is not None:
            samples.append(sample_of(simple))
        return HounsfieldSlice(simple, frozenset())
    stored = _significant_bits(raw, dataset)
    slope = 1.0 if instance.slope is None else instance.slope
    intercept = 0.0 if instance.intercept is None else instance.intercept
    declared = _declared_padding(dataset)
    padding = None if declared is None else padding_mask(stored, slope, intercept, declared)
    if declared is not None and padding is not None and not _fits(declared, dataset):
        # Some writers put padding where BitsStored leaves no room for it: it is gone once the junk above is.
        padding |= padding_mask(raw, slope, intercept, declared)
    if instance.has_lut:
        with reading():
            hu: NDArray[Any] = _modality_lut(dataset, stored)
    else:
        hu = rescale(stored, slope, intercept)
    if samples is not None:
        samples.append(sample_of(hu, padding))
    pixels, flags = to_slice(hu, padding, lossy=instance.lossy)
    junk = _has_high_bits(raw if padding is None else raw[~padding], dataset)
    return HounsfieldSlice(pixels, flags | {"high_bits"} if junk else flags)


def _simple_hu(instance: Instance, dataset: Any, raw: NDArray[Any]) -> NDArray[np.int16] | None:
    """HU where a whole number is to be added to values of 16 bits and nothing else is to be done; None elsewhere.

    That is most CT, and is done here in a quarter of the time: no padding, nothing to be clipped, no junk in high bits.
    """
    intercept = instance.intercept
    whole = instance.slope == 1 and intercept is not None and intercept.is_integer() and abs(intercept) <= 32767
    if not whole or instance.has_lut or raw.dtype.kind not in "iu" or raw.dtype.itemsize != 2 or not raw.size:
        return None
    assert intercept is not None
    lowest, highest = int(raw.min()), int(raw.max())
    if lowest + intercept < PADDING_HU or highest + intercept > np.iinfo(np.int16).max:
        return None
    padding = _declared_padding(dataset)
    if padding is not None and padding[0] <= highest and padding[1] >= lowest:
        return None
    bits = _bits_stored(dataset)
    if integer(dataset, "HighBit") not in (None, bits - 1):
        return None
    bottom = _lowest_value(bits, dataset)
    if lowest < bottom or highest >= bottom + (1 << bits):
        return None
    pixels = raw.astype(np.int16)  # high values without a sign wrap here, and back in the sum
    np.add(pixels, np.int16(intercept), out=pixels)
    return pixels


def _turned_over(stored: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """MONOCHROME1 shows its lowest value white (PS3.3 C.7.6.3.1.2): what was lowest becomes highest."""
    bits = _bits_stored(dataset)
    return -1 - stored if integer(dataset, "PixelRepresentation") == 1 else (1 << bits) - 1 - stored


def pixel_digest(instance: Instance) -> str:
    """SHA-256 (hex) of what `read_pixels` gives, so that the same image in two encodings is the same.

    Raises:
        RejectedError: the pixels cannot be decoded.
    """
    return hashlib.sha256(np.ascontiguousarray(read_pixels(instance, lowered=True).pixels).tobytes()).hexdigest()


def _modality_lut(dataset: Any, stored: NDArray[Any]) -> NDArray[np.int64]:
    """Stored values through the Modality LUT sequence (PS3.3 C.11.1.1.1): clamped to the table's ends."""
    item = dataset.ModalityLUTSequence[0]
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count or 0x10000
    if integer(dataset, "PixelRepresentation") == 1 and first > 0x7FFF:
        first -= 0x10000
    data = item.LUTData
    if isinstance(data, bytes):
        little = dataset.file_meta.TransferSyntaxUID != pydicom.uid.ExplicitVRBigEndian
        bytewise = bits <= 8 and len(data) <= count + 1
        data = np.frombuffer(data, np.dtype("u1" if bytewise else "<u2" if little else ">u2"))
    table = np.asarray(data, np.int64)[:count]
    if len(table) < count:
        raise RejectedError(Reason.UNREADABLE, f"its Modality LUT has {len(table)} of {count} entries; it is damaged")
    return np.asarray(table[np.clip(stored - first, 0, len(table) - 1)])


def _significant_bits(raw: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Values without what overlays or junk left above and below the stored bits, sign extended (PS3.5 8.1.1).

    In int32 where the values have at most 16 bits, which leaves room to compute, and in int64 otherwise.
    """
    stored: NDArray[np.signedinteger[Any]] = raw.astype(np.int32 if raw.dtype.itemsize <= 2 else np.int64)
    bits, allocated = _bits_stored(dataset), integer(dataset, "BitsAllocated") or 16
    high = integer(dataset, "HighBit")
    shift = 0 if high is None else high + 1 - bits
    if not bits < allocated <= 64 or not 0 <= shift <= allocated - bits:
        return stored
    lowest = _lowest_value(bits, dataset)
    inside = lowest <= raw.min() and raw.max() < lowest + (1 << bits)
    if shift:
        # Decoders give values, not cells. And some writers name a HighBit and store values at the bottom nonetheless.
        low_bits_used = bool((stored & ((1 << shift) - 1)).any())
        if text(dataset.file_meta, "TransferSyntaxUID") not in CELL_SYNTAXES or (inside and low_bits_used):
            return stored
        stored = stored >> shift
    elif inside:
        return stored
    shifted: Any = stored - lowest
    return np.asarray((shifted & ((1 << bits) - 1)) + lowest)


def _has_high_bits(raw: NDArray[Any], dataset: Any) -> bool:
    """Whether values at the bottom of their cells have bits above BitsStored that are no extension of a sign."""
    bits, allocated = _bits_stored(dataset), integer(dataset, "BitsAllocated") or 16
    if integer(dataset, "HighBit") not in (None, bits - 1) or not bits < allocated <= 32 or raw.dtype.kind not in "iu":
        return False
    cells = raw.astype(np.int64) & ((1 << allocated) - 1)
    above = cells >> bits
    if integer(dataset, "PixelRepresentation") == 1:
        above = above[(above != (1 << (allocated - bits)) - 1) | (cells >> (bits - 1) & 1 == 0)]
    return bool(above.any())


def _bits_stored(dataset: Any) -> int:
    """BitsStored, from 1 to 64; BitsAllocated where it is missing or no number of bits that fit there."""
    allocated = integer(dataset, "BitsAllocated") or 16
    allocated = allocated if 0 < allocated <= 64 else 16
    bits = integer(dataset, "BitsStored") or allocated
    return bits if 0 < bits <= allocated else allocated


def _lowest_value(bits: int, dataset: Any) -> int:
    """The lowest value that so many bits hold."""
    return -(1 << (bits - 1)) if integer(dataset, "PixelRepresentation") == 1 else 0


def _fits(limits: tuple[int, int], dataset: Any) -> bool:
    """Whether values lie within what BitsStored can hold."""
    bits = _bits_stored(dataset)
    lowest = _lowest_value(bits, dataset)
    return lowest <= limits[0] and limits[1] < lowest + (1 << bits)


def _declared_padding(dataset: Any) -> tuple[int, int] | None:
    """Lowest and highest stored value of padding; a value written with the wrong sign is understood."""
    first = integer(dataset, "PixelPaddingValue")
    if first is None:
        return None
    second = integer(dataset, "PixelPaddingRangeLimit")
    limits = [_signed(value, dataset) for value in (first, first if second is None else second)]
    return min(limits), max(limits)


def _signed(value: int, dataset: Any) -> int:
    if integer(dataset, "PixelRepresentation") == 1 and value > 0x7FFF:
        return value - 0x10000
    if integer(dataset, "PixelRepresentation") == 0 and value < 0:
        return value + 0x10000
    return value
