"""Series of several stores that hold the same slices, under whatever pseudonym."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medssl_monai.store.reader import SliceStore

_COLUMNS = ("series_id", "slice", "rows", "columns", "hu_min", "hu_max", "body_fraction", "phash")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, of the golden ratio, as in splitmix64

Content = tuple[int, int]
"""Number of slices, and a sum over them that depends on their measures and their order."""


def series_contents(store: SliceStore) -> dict[str, Content]:
    """What the index says of each series' pixels: equal for equal series, whatever key their store was made with.

    Only the index is read: size, lowest and highest value, share of the body and perceptual hash of each slice. Two
    series that differ in a single slice differ, unless that slice has all of these in common.
    """
    counts: dict[str, int] = {}
    sums: dict[str, int] = {}
    for table in store.tables(None, _COLUMNS):
        series = table.column("series_id").combine_chunks().dictionary_encode()
        names, codes = series.dictionary.to_pylist(), series.indices.to_numpy()
        found = np.zeros(len(names), np.uint64)
        np.add.at(found, codes, _mixed(table))
        for name, count, value in zip(names, np.bincount(codes, minlength=len(names)), found, strict=True):
            counts[name] = counts.get(name, 0) + int(count)
            sums[name] = (sums.get(name, 0) + int(value)) % 2**64
    return {name: (counts[name], sums[name]) for name in counts}


def _mixed(table: pa.Table) -> NDArray[np.uint64]:
    """A number for each row, far from those of rows that differ in anything."""
    hashes = np.frombuffer(bytes.fromhex("".join(table.column("phash").to_pylist())), ">u8").astype(np.uint64)
    parts: list[NDArray[Any]] = [hashes, table.column("body_fraction").to_numpy().view(np.uint32)]
    parts += [table.column(name).to_numpy().view(np.uint32) for name in _COLUMNS[1:6]]
    mixed = np.zeros(table.num_rows, np.uint64)
    for part in parts:
        mixed = (mixed ^ part.astype(np.uint64)) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    return mixed
