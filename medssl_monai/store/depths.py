"""Where slices lie along the axis of their series, and which lie beside one another."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROUNDING_MM = 0.01
"""Positions in DICOM are decimal text; two slices that are nominally X mm apart may be a little less or more."""


def slice_depths(index: pa.Table) -> NDArray[np.float64]:
    """Position of each slice along its series' axis, mm: (N,); NaN where unknown.

    Only differences within a series mean anything.

    Args:
        index: a store's whole index, so that gaps count (see `schema.COLUMNS`).
    """
    spacings = index.column("slice_spacing_mm")
    steps = spacings.fill_null(0.0).to_numpy()
    return np.where(spacings.is_null().to_numpy(), np.nan, np.cumsum(steps) - steps)


def neighbouring_slices(index: pa.Table, distance_mm: float) -> NDArray[np.int32]:
    """Numbers of the slices that lie a distance below and above each slice, along the axis of its series: (N, 2).

    The nearest slice is taken; of two equally near ones, the one that is nearer to the slice itself. The slice's own
    number stands where no slice is there: at an end of the series, in a gap (the nearest slice is farther from the
    place than half the series' median spacing), and where positions are unknown.

    Args:
        index: a store's whole index, as of `slice_depths`.
        distance_mm: above 0.
    """
    depths, numbers = slice_depths(index), index.column("slice").to_numpy()
    series = index.column("series_id").combine_chunks().dictionary_encode().indices.to_numpy()
    bounds = [0, *(np.flatnonzero(np.diff(series)) + 1).tolist(), len(series)]  # an index is sorted by series and slice
    found = np.stack([numbers, numbers], axis=1).astype(np.int32)
    for first, last in pairwise(bounds):
        here = depths[first:last]
        if last - first > 1 and not np.isnan(here).any():
            above = _above(here, distance_mm)
            below = last - first - 1 - _above(-here[::-1], distance_mm)[::-1]
            found[first:last] = numbers[first:last][np.stack([below, above], axis=1)]
    return found


def _above(depths: NDArray[np.float64], distance_mm: float) -> NDArray[np.intp]:
    """Which of the slices of a series, two or more in rising order, lies a distance above each."""
    wanted = depths + distance_mm
    nearer = np.searchsorted(depths, wanted + ROUNDING_MM, "right") - 1  # the last one that is not beyond the place
    beyond = np.minimum(nearer + 1, len(depths) - 1)
    nearest = np.where(depths[beyond] - wanted < wanted - depths[nearer] - ROUNDING_MM, beyond, nearer)
    reach = float(np.median(np.diff(depths))) / 2 + ROUNDING_MM
    return np.where(np.abs(depths[nearest] - wanted) <= reach, nearest, np.arange(len(depths)))
