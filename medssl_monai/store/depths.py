"""Where slices lie along the axis of their series."""

from __future__ import annotations

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
