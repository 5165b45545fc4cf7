"""The neighbours of the slices of a data set, which are channels beside the slice itself.

Shapes: N slices; numbers of the neighbour below and above (N, 2), a slice's own number where there is none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medssl_monai.store.depths import neighbouring_slices
from medssl_monai.store.index_file import columns_of
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters, filter_expression

_PLACED = ("series_id", "slice", "slice_spacing_mm")
_BESIDE = ("slice_below", "slice_above")

Numbers = NDArray[np.int32]


def beside_filtered(store: SliceStore, filters: Filters | None, distance_mm: float) -> Numbers:
    """The neighbours of the slices that filters leave, in the index's order; all slices of the store count."""
    index = store.select_table(None, sorted({*_PLACED, *columns_of(filters)}))
    for name, numbers in zip(_BESIDE, neighbouring_slices(index, distance_mm).T, strict=True):
        index = index.append_column(name, pa.array(numbers))
    passing = index.filter(filter_expression(filters)) if filters else index
    return np.stack([passing.column(name).to_numpy() for name in _BESIDE], axis=1)


def beside_rows(store: SliceStore, rows: Sequence[Mapping[str, Any]], distance_mm: float) -> Numbers:
    """The neighbours of rows with `series_id` and `slice`, in their order."""
    series = sorted({row["series_id"] for row in rows})
    index = store.select_table([["series_id", "in", series]], _PLACED)
    keys = zip(index.column("series_id").to_pylist(), index.column("slice").to_pylist(), strict=True)
    found = dict(zip(keys, neighbouring_slices(index, distance_mm).tolist(), strict=True))
    return np.array([found.get((row["series_id"], row["slice"]), [row["slice"]] * 2) for row in rows], np.int32)


def with_more(
    series: NDArray[np.integer[Any]], own: NDArray[np.integer[Any]], beside: Numbers
) -> tuple[NDArray[np.int64], list[tuple[int, int]]]:
    """Positions (N, 3) of each slice's channels among the slices, then among `more`, neighbours that are not there.

    Args:
        series: (N,) number of each slice's series.
        own: (N,) number of each slice.
        beside: its neighbours.

    Returns:
        The positions; those from N on are of `more`, each with the number of its series and its own.
    """
    shown = np.stack([beside[:, 0], own, beside[:, 1]], axis=1).astype(np.int64)
    width = int(shown.max()) + 1
    keys = series[:, None].astype(np.int64) * width + shown
    more = np.setdiff1d(keys, keys[:, 1])
    every = np.concatenate([keys[:, 1], more])
    order = np.argsort(every, kind="stable")
    positions = order[np.searchsorted(every, keys, sorter=order)]
    return positions, [(int(key // width), int(key % width)) for key in more]
