"""The slices that filters leave of a store, as rows of equal width.

Of a large store they are computed once and kept in a file beside it, from which all processes and workers read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medssl_monai.errors import StoreError
from medssl_monai.resources import user_cache
from medssl_monai.store.index_file import count_rows, filtered_tables
from medssl_monai.store.schema import Filters, conjunctions

CODED = ("series_id", "patient", "modality")
ROW = np.dtype(
    [
        *((name, "<i4") for name in (*CODED, "slice")),
        *((name, "<f8") for name in ("spacing_row_mm", "spacing_column_mm", "window_level", "window_width")),
    ]
)
"""A slice, in 48 bytes: texts as numbers in the order in which they come, -1 for null; NaN for an unknown number."""
USED_COLUMNS = tuple(ROW.names or ())

KEPT_FROM = 50_000
"""Slices of a store from which on selections are kept; smaller ones are computed in a tenth of a second."""
VERSION = 1
ROWS_NAME = "rows.npy"
DAY = 86400  # seconds


class Selection:
    """Slices of a store in the index's order.

    Args:
        rows: (N,) of `ROW`.
        names: the texts of each of `CODED`, as bytes in UTF-8.
    """

    def __init__(self, rows: NDArray[Any], names: Mapping[str, NDArray[np.bytes_]]) -> None:
        self.rows, self.names = rows, names

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> dict[str, Any]:
        """A slice's columns by name; None where the index has null."""
        values = dict(zip(USED_COLUMNS, self._stored(index), strict=True))
        texts = {name: self.names[name][code].decode() if (code := values[name]) >= 0 else None for name in CODED}
        numbers = {name: None if value != value else value for name, value in values.items() if name not in CODED}
        return texts | numbers

    def _stored(self, index: int) -> tuple[Any, ...]:
        stored: tuple[Any, ...] = self.rows[index].item()
        return stored


class KeptSelection(Selection):
    """Slices of a large store, read from a file row by row.

    Rows are read, not memory-mapped: of a mapped file, 10,000 rows at random places made 370 MB resident in every
    process (docs/performance.md). The pages of the file are in memory once for all processes, in the system's cache.

    Args:
        folder: in which `select_rows` kept it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in CODED}
        with (folder / ROWS_NAME).open("rb") as file:
            np.lib.format.read_magic(file)
            (self._length,), _, kind = np.lib.format.read_array_header_1_0(file)
            self._start = file.tell()
        size = self._start + self._length * ROW.itemsize
        if kind != ROW or (folder / ROWS_NAME).stat().st_size != size:
            raise StoreError(f"{folder}: is not a whole selection; remove this folder, and it is computed again")
        self._file = os.open(folder / ROWS_NAME, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @property
    def rows(self) -> NDArray[Any]:  # type: ignore[override]  # mapped for as long as somebody looks at it
        """(N,) of `ROW`, memory-mapped."""
        rows: NDArray[Any] = np.load(self.folder / ROWS_NAME, mmap_mode="r")
        return rows

    def __len__(self) -> int:
        return int(self._length)

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptSelection, (self.folder,)

    def _stored(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        content = os.pread(self._file, ROW.itemsize, self._start + index * ROW.itemsize)
        stored: tuple[Any, ...] = np.frombuffer(content, ROW)[0].item()
        return stored


def select_rows(store: Path, fingerprint: str, slices: int, filters: Filters | None) -> Selection:
    """The slices that pass, computed, or opened where they were kept.

    They are kept in ``STORE/selections``, or in the user's cache where the store cannot be written. What belongs to an
    earlier content of the store is removed there.

    Args:
        store: the store's folder.
        fingerprint: of its content.
        slices: how many it has.
        filters: see `SliceStore.select`.

    Raises:
        StoreError: a filter is malformed or names no column.
    """
    if slices < KEPT_FROM:
        return _in_memory(store, filters)
    wanted = json.dumps([VERSION, fingerprint, conjunctions(filters or ())], default=sorted)
    name = f"{fingerprint[:16]}-{hashlib.sha256(wanted.encode()).hexdigest()[:16]}"
    places = [store / "selections", user_cache() / "selections"]
    for place in places:
        if (place / name).is_dir():
            return KeptSelection(place / name)
    for place in places:
        try:
            return _kept(store, filters, place, name)
        except OSError:  # read-only, or full
            continue
    return _in_memory(store, filters)


def _in_memory(store: Path, filters: Filters | None) -> Selection:
    names: dict[str, dict[str, int]] = {name: {} for name in CODED}
    parts = [_coded(table, names) for table in filtered_tables(store, filters, USED_COLUMNS)]
    rows = np.concatenate(parts) if parts else np.empty(0, ROW)
    return Selection(rows, {name: _as_bytes(found) for name, found in names.items()})


def _kept(store: Path, filters: Filters | None, place: Path, name: str) -> Selection:
    """Written batch after batch, so that memory does not grow with the store."""
    length = count_rows(store, filters)
    if not length:
        return _in_memory(store, filters)
    place.mkdir(parents=True, exist_ok=True)
    if place.parent == store:
        _remove_old(place, name.partition("-")[0])
    draft = place / f".{name}.{os.getpid()}"
    draft.mkdir(exist_ok=True)
    try:
        names: dict[str, dict[str, int]] = {each: {} for each in CODED}
        with (draft / ROWS_NAME).open("wb") as file:  # not mapped: a full disk would end the process by a signal
            header = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (length,)}
            np.lib.format.write_array_header_1_0(file, header)
            for table in filtered_tables(store, filters, USED_COLUMNS):
                file.write(_coded(table, names).tobytes())
        for each, found in names.items():
            np.save(draft / f"{each}.npy", _as_bytes(found))
        try:
            draft.rename(place / name)
        except OSError:
            if not (place / name).is_dir():  # else another process was the first
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return KeptSelection(place / name)


def _remove_old(place: Path, content: str) -> None:
    """What belongs to another content of the store, and what killed processes began."""
    for old in place.iterdir():
        draft = old.name.startswith(".")
        if (draft and old.stat().st_mtime < time.time() - DAY) or not (draft or old.name.startswith(content)):
            shutil.rmtree(old, ignore_errors=True)


def _coded(table: pa.Table, names: dict[str, dict[str, int]]) -> NDArray[Any]:
    """A table as `ROW`; texts that are new are added to `names`."""
    rows = np.empty(table.num_rows, ROW)
    for name in USED_COLUMNS:
        column = table.column(name).combine_chunks()
        if name in CODED:
            column = column.dictionary_encode()
            numbers = names[name]
            codes = [numbers.setdefault(text, len(numbers)) for text in column.dictionary.to_pylist()]
            local = column.indices.fill_null(len(codes)).to_numpy()
            rows[name] = np.asarray([*codes, -1], np.int32)[local]
        elif name == "slice":
            rows[name] = column.to_numpy()
        else:
            rows[name] = column.fill_null(np.nan).to_numpy()
    return rows


def _as_bytes(numbers: Mapping[str, int]) -> NDArray[np.bytes_]:
    return np.asarray([text.encode() for text in numbers], np.bytes_) if numbers else np.empty(0, "S1")
