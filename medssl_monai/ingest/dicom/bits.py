"""Where in a pixel cell its value stands, and which values are padding (PS3.5 8.1.1, PS3.3 C.7.5.1.1.2)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.ingest.dicom.instance import UNCOMPRESSED_SYNTAXES
from medssl_monai.ingest.dicom.tags import integer, text

CELL_SYNTAXES = UNCOMPRESSED_SYNTAXES | {"1.2.840.10008.1.2.5"}
"""Transfer syntaxes that keep pixel cells bit by bit, RLE among them; the others keep the values in them."""


def significant_bits(raw: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Values without what overlays or junk left above and below the stored bits, sign extended (PS3.5 8.1.1).

    In int32 where the values have at most 16 bits, which leaves room to compute, and in int64 otherwise.
    """
    stored: NDArray[np.signedinteger[Any]] = raw.astype(np.int32 if raw.dtype.itemsize <= 2 else np.int64)
    bits, allocated = bits_stored(dataset), integer(dataset, "BitsAllocated") or 16
    high = integer(dataset, "HighBit")
    shift = 0 if high is None else high + 1 - bits
    if not bits < allocated <= 64 or not 0 <= shift <= allocated - bits:
        return stored
    lowest = lowest_value(bits, dataset)
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


def bits_stored(dataset: Any) -> int:
    """BitsStored, from 1 to 64; BitsAllocated where it is missing or no number of bits that fit there."""
    allocated = integer(dataset, "BitsAllocated") or 16
    allocated = allocated if 0 < allocated <= 64 else 16
    bits = integer(dataset, "BitsStored") or allocated
    return bits if 0 < bits <= allocated else allocated


def lowest_value(bits: int, dataset: Any) -> int:
    """The lowest value that so many bits hold."""
    return -(1 << (bits - 1)) if integer(dataset, "PixelRepresentation") == 1 else 0


def fits(limits: tuple[int, int], dataset: Any) -> bool:
    """Whether values lie within what BitsStored can hold."""
    bits = bits_stored(dataset)
    lowest = lowest_value(bits, dataset)
    return lowest <= limits[0] and limits[1] < lowest + (1 << bits)


def declared_padding(dataset: Any) -> tuple[int, int] | None:
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
