"""From stored values to Hounsfield units in int16, without wrapping; and whether values can be Hounsfield units at all.

HU = slope * stored + intercept (PS3.3 C.11.1.1.2). Padding is found before rescaling and becomes -1024 HU.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

PADDING_HU = -1024
"""What stands outside the field of view."""

UNDECLARED_PADDING_HU = -1500
"""No tissue, air or noise lies at or below this: paddings of -2000, -2048 and -3024 HU often stand undeclared."""

NO_AIR_HU = -500
"""Where no value is as low as this, there is no air."""

NO_TISSUE_HU, DENSEST_HU = -900, -200
"""Where no value is as high as the first there is nothing but air; of a body, some are higher than the second."""

TWICE = ((-1500, -900), (-150, 200))
"""Where soft tissue lies that was rescaled twice, and where it should lie."""

ENOUGH_VOXELS = 100
"""Fewer do not show that tags are wrong."""

CUT_OFF = 0.01
"""So many values that are exactly the lowest one come from a window, where that is not air or padding."""

LOWERED_BY = 32768
"""What is subtracted from all values of a series, other than CT, that needs all 16 bits without a sign."""

_INT16 = np.iinfo(np.int16)


class HounsfieldSlice(NamedTuple):
    """A slice as it goes to the store.

    Attributes:
        pixels: (H, W) int16 HU (as stored for other modalities than CT).
        flags: words of `verdicts.FLAGS` that hold for this slice.
    """

    pixels: NDArray[np.int16]
    flags: frozenset[str]


def rescale(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """slope * stored + intercept: exact in int32 or int64 where all three are integers, otherwise float64."""
    whole = stored.dtype.kind in "iub" and float(slope).is_integer() and float(intercept).is_integer()
    if whole and abs(slope) < 2**20 and abs(intercept) < 2**40 and stored.size:
        largest = max(abs(int(stored.min())), abs(int(stored.max()))) * abs(slope) + abs(intercept)
        values: NDArray[Any] = stored.astype(np.int32 if largest < 2**31 else np.int64)
        np.multiply(values, int(slope), out=values)
        np.add(values, int(intercept), out=values)
        return values
    return stored.astype(np.float64) * slope + intercept


def clip_to_int16(values: NDArray[Any]) -> tuple[NDArray[np.int16], bool]:
    """Rounded to the nearest integer (ties to even) and clipped to int16; and whether anything was clipped."""
    rounded = np.rint(values) if values.dtype.kind == "f" else values
    clipped = bool(rounded.size) and bool(rounded.min() < _INT16.min or rounded.max() > _INT16.max)
    return (np.clip(rounded, _INT16.min, _INT16.max) if clipped else rounded).astype(np.int16), clipped


def needs_lowering(lowest: float, highest: float) -> bool:
    """Whether values are too high for int16 as they are, but not if `LOWERED_BY` is subtracted: 16 bits, no sign."""
    return lowest >= 0 and _INT16.max < highest <= _INT16.max + LOWERED_BY


def padding_mask(
    stored: NDArray[Any], slope: float, intercept: float, declared: tuple[int, int] | None
) -> NDArray[np.bool_]:
    """Where stored values are the padding that the tags declare (PS3.3 C.7.5.1.1.2).

    A declared range inside the tissue scale is believed only if a corner of the image has it: some writers declare 0
    where 0 HU is water.

    Args:
        stored: (H, W) integers.
        slope: HU a stored unit.
        intercept: HU of stored 0.
        declared: lowest and highest stored value of padding, from PixelPaddingValue and PixelPaddingRangeLimit.
    """
    if declared is None:
        return np.zeros(stored.shape, bool)
    inside: NDArray[np.bool_] = (stored >= declared[0]) & (stored <= declared[1])
    declared_hu = [slope * value + intercept for value in declared]
    air_or_beyond = max(declared_hu) <= -900 or min(declared_hu) > 3071
    corner = bool(inside[[0, 0, -1, -1], [0, -1, 0, -1]].any())
    return inside if air_or_beyond or corner else np.zeros(stored.shape, bool)


def to_slice(hu: NDArray[Any], padding: NDArray[np.bool_] | None = None, *, lossy: bool = False) -> HounsfieldSlice:
    """HU, not yet rounded, as a slice of the store.

    Everything at or below -1500 HU is padding whether declared or not. Lossy compression smears the edge of padding
    into values in between, so that below -1024 nothing is believed there.

    Args:
        hu: (H, W) HU, integer or float; NaN and infinity become padding and are flagged.
        padding: (H, W), True where padding was found in the stored values.
        lossy: whether the image was compressed with loss.
    """
    flags = set()
    if hu.dtype.kind == "f":
        broken = ~np.isfinite(hu)
        if broken.any():
            flags.add("non_finite")
            hu = np.where(broken, PADDING_HU, hu)
    if padding is not None or (hu.size and hu.min() < PADDING_HU):  # most slices have neither, and are done here
        low: NDArray[np.bool_] = hu < PADDING_HU if lossy else hu <= UNDECLARED_PADDING_HU
        if (low if padding is None else low & ~padding).any():
            flags.add("undeclared_padding")
        outside = low if padding is None else low | padding
        if outside.any():
            flags.add("padded")
            hu = np.where(outside, PADDING_HU, hu)
    pixels, clipped = clip_to_int16(hu)
    if clipped:
        flags.add("clipped")
    return HounsfieldSlice(pixels, frozenset(flags))


def sample_of(hu: NDArray[Any], padding: NDArray[np.bool_] | None = None) -> NDArray[Any]:
    """Some 4,096 values of a slice, a copy, without the padding."""
    step = max(1, min(hu.shape) // 64)
    some = hu[::step, ::step]
    return some.flatten() if padding is None else some[~padding[::step, ::step]]


def joined(samples: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """The samples of a series as one, without slices of a single value: they are no picture, and prove nothing."""
    return np.concatenate([np.empty(0), *(one for one in samples if one.size and one.min() != one.max())])


def odd_hounsfield(values: NDArray[Any]) -> str:
    """The flag for HU without air, as in a small field of view, or without tissue; empty where both are there.

    Args:
        values: as for `not_hounsfield`.
    """
    if values.size < ENOUGH_VOXELS:
        return ""
    return "no_air" if float(values.min()) > NO_AIR_HU else "no_tissue" if float(values.max()) < NO_TISSUE_HU else ""


def not_hounsfield(values: NDArray[Any], *, tagged: bool = False) -> str:
    """Why values cannot be Hounsfield units of a patient in air; empty where they can.

    HU of a body in its surroundings reach down to air (-1000) and up to tissue, are rarely below air, and rarely above
    bone (3071). Windowed 8-bit pictures, masks, label maps, normalised volumes, CT stored from 0 and magnetic resonance
    images miss the first, CT that was rescaled twice the second, phase images the third. Padding, at or below -1500, is
    no air and proves nothing.

    Args:
        values: any shape; a sample of a volume, rescaled.
        tagged: whether tags say that they are HU. Then there may be no tissue; and no air, as in a small field of view,
            but not without anything lighter than water, and not because a window cut it off.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.reshape(-1)
    if tagged and finite.size < ENOUGH_VOXELS:
        return ""
    if not finite.size:
        return "no voxel has a finite value"
    not_padding = finite[finite > UNDECLARED_PADDING_HU]
    if not not_padding.size:
        return f"no voxel is above air (highest {float(finite.max()):g})"
    lowest, highest = float(not_padding.min()), float(not_padding.max())
    if lowest > NO_AIR_HU and not (tagged and lowest < 0):
        return f"no voxel is as low as air (found {lowest:g} to {highest:g}, air is -1000 HU)"
    if lowest > NO_AIR_HU and (cut := float((not_padding == lowest).mean())) > CUT_OFF:
        return f"{cut:.0%} of the voxels have the lowest value, {lowest:g}, as where a window cut off what is below"
    if highest < NO_TISSUE_HU and not tagged:
        return f"no voxel is above air (found {lowest:g} to {highest:g})"
    if NO_TISSUE_HU <= highest < DENSEST_HU:
        return f"no voxel is as dense as tissue (found {lowest:g} to {highest:g}, tissue is about 0 HU)"
    below = finite[finite <= UNDECLARED_PADDING_HU]
    at_air, tissue = (float(((not_padding > low) & (not_padding < high)).mean()) for low, high in TWICE)
    if below.size > 0.3 * finite.size and (at_air > 0.8 or tissue < 0.05):
        share = below.size / finite.size
        return f"{share:.0%} of the voxels lie below air and most others are no tissue, as if rescaled twice"
    padding_values = np.unique(below[:: max(1, below.size // 4096)]).size
    # Lossy compression smears the padding around a round field of view, a fifth of a slice at most.
    if padding_values > 64 and below.size > (0.3 if tagged else 0.05) * finite.size:
        return f"{below.size / finite.size:.0%} of the voxels lie spread below air (lowest {float(below.min()):g})"
    too_high = float((not_padding > 3071).mean())
    if too_high > 0.05:
        return f"{too_high:.0%} of the voxels lie above the scale of bone (highest {highest:g})"
    return ""
