"""A slice store, opened for reading: every slice of every series in HU, found through one index.

    STORE/
        series/<series_id>.b2nd      blosc2 array (slices, H, W) int16, one compressed block a slice
        series/<series_id>.parquet   one row a slice (its study_day is shifted by a secret of the key)
        index.parquet                all rows, sorted by series and slice
        verdicts.jsonl               what became of every file that was met
        report.html                  the same for people, where it was asked for
        store.json                   schema version, counts, fingerprint; written last: a store without it is unfinished

`writer.py` makes stores. Nothing here imports torch or MONAI.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medssl_monai.errors import StoreError
from medssl_monai.store.arrays import FileArray, SliceArray
from medssl_monai.store.index_file import INDEX_NAME, count_rows, filtered_tables
from medssl_monai.store.records import SeriesNote, Voi, read_note
from medssl_monai.store.schema import INDEX_SCHEMA, Filters, describe, filter_expression
from medssl_monai.store.selection import Selection, select_rows
from medssl_monai.store.verdicts import Verdict, read_verdicts

BATCH_ROWS = 1024
"""Rows of the index in memory where it is read little by little."""


class SliceStore:
    """A finished slice store.

    Examples:
        >>> store = SliceStore("thorax.store")                                        # doctest: +SKIP
        >>> rows = store.select([["modality", "==", "CT"], ["body_fraction", ">", 0.05]])  # doctest: +SKIP
        >>> store.read(rows[0]["series_id"], rows[0]["slice"])                        # doctest: +SKIP

    It may be pickled and forked: open files stay with the process and the thread that opened them.

    Args:
        path: the store's folder.
        open_arrays: memory-mapped arrays that one thread of one process keeps open.

    Raises:
        StoreError: there is no store, it is unfinished, or it has another schema version.
    """

    def __init__(self, path: str | Path, open_arrays: int = 128) -> None:
        self.path, self.open_arrays = Path(path), open_arrays
        self.description = describe(self.path)
        self.told: set[str] = set()  # what data sets have logged of it, so that no line comes twice
        self._local = threading.local()

    @property
    def place(self) -> str:
        """Where it is, for messages and records: its folder."""
        return str(self.path)

    @cached_property
    def index(self) -> pa.Table:
        """The whole index, read when it is first asked for (see `schema.COLUMNS`)."""
        return pq.read_table(self.path / INDEX_NAME, schema=INDEX_SCHEMA)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the index and the arrays: two stores with the same content have the same one."""
        return str(self.description["fingerprint"])

    @cached_property
    def series_ids(self) -> list[str]:
        """All series, sorted."""
        return sorted(name.decode() for name in self.selection().names["series_id"].tolist())

    @cached_property
    def series_by_source(self) -> dict[str, set[str]]:
        """The series that came from each source id."""
        columns = ["source_id", "series_id"]
        pairs = self.select_table(None, columns).group_by(columns).aggregate([])
        found: dict[str, set[str]] = {}
        for pair in pairs.to_pylist():
            found.setdefault(pair["source_id"], set()).add(pair["series_id"])
        return found

    def patients_told(self, filters: Filters | None = None) -> str:
        """How many patients pass the filters, and of how many series the patient is unknown, as text."""
        table = self.select_table(filters, ["patient", "series_id", "flags"])
        unknown = pc.match_substring(table.column("flags"), "patient_unknown")
        nameless = pc.count_distinct(table.filter(unknown).column("series_id")).as_py()
        known = pc.count_distinct(table.filter(pc.invert(unknown)).column("patient")).as_py()
        told = [f"{known} patient{'s' * (known != 1)}"] if known or not nameless else []
        return " and ".join([*told, *[f"{nameless} series of unknown patients"] * bool(nameless)])

    @property
    def verdicts(self) -> list[Verdict]:
        """What became of every file that was met."""
        return read_verdicts(self._file("verdicts.jsonl"))

    def __len__(self) -> int:
        return int(self.description["slices"])

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.place!r}: {self.description['series']} series, {len(self)} slices)"

    def read(self, series_id: str, slice: int) -> NDArray[np.int16]:
        """One slice: (H, W) int16 HU, a fresh array.

        Raises:
            StoreError: there is no such series or slice, or its array is damaged.
        """
        array = self._open(series_id)
        if not 0 <= slice < array.shape[0]:
            raise StoreError(
                f"store {self.place}: series {series_id} has slices 0 to {array.shape[0] - 1}, not {slice}; "
                "ask for one that the index lists"
            )
        try:
            return array.read(slice)
        except RuntimeError as error:
            raise self._damaged(series_id) from error

    def read_series(self, series_id: str) -> NDArray[np.int16]:
        """A whole series: (slices, H, W) int16 HU."""
        try:
            return self._open(series_id).read_all()
        except RuntimeError as error:
            raise self._damaged(series_id) from error

    def _damaged(self, series_id: str) -> StoreError:
        return StoreError(
            f"store {self.path}: the array of series {series_id} is damaged; take it out by "
            f"`medssl verify {self.path} --remove`, and ingest its source again"
        )

    def select(self, filters: Filters | None = None) -> list[dict[str, Any]]:
        """The rows of the index that pass, as dicts, in the index's order (see `schema.COLUMNS`).

        Args:
            filters: `[[column, operator, value], ...]`, all of which must hold; or a list of such lists, one of which
                must hold. None selects everything.
        """
        rows: list[dict[str, Any]] = self.select_table(filters).to_pylist()
        return rows

    def select_table(self, filters: Filters | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """As `select`, as a pyarrow table; of a large store ask for the `columns` that you need."""
        if columns is None:
            return self.index.filter(filter_expression(filters)) if filters else self.index
        empty = pa.schema([INDEX_SCHEMA.field(name) for name in columns]).empty_table()
        return pa.concat_tables([empty, *self.tables(filters, columns)])

    def tables(self, filters: Filters | None, columns: Sequence[str]) -> Iterator[pa.Table]:
        """As `select_table`, a batch of rows after another, without the whole index in memory."""
        return filtered_tables(self.path, filters, columns)

    def rows_at(self, numbers: Sequence[int], filters: Filters | None, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Those with the given numbers, ascending and from 0, among the rows that pass."""
        found: list[dict[str, Any]] = []
        first = 0
        for table in self.tables(filters, columns):
            here = [number - first for number in numbers if first <= number < first + table.num_rows]
            found += table.take(here).to_pylist() if here else []
            first += table.num_rows
        return found

    def selection(self, filters: Filters | None = None) -> Selection:
        """What a data set needs of the slices that pass; of a large store memory-mapped (`select_rows`)."""
        return select_rows(self.path, self.fingerprint, len(self), filters)

    def count(self, filters: Filters | None = None) -> int:
        """How many slices pass."""
        return count_rows(self.path, filters) if filters else len(self)

    def each_series(self) -> Iterator[list[dict[str, Any]]]:
        """The rows of one series after another, in the index's order, without the whole index in memory."""
        with pq.ParquetFile(self.path / INDEX_NAME) as file:
            rows = (row for batch in file.iter_batches(BATCH_ROWS, use_threads=False) for row in batch.to_pylist())
            yield from (list(series) for _, series in groupby(rows, key=itemgetter("series_id")))

    def note(self, series_id: str) -> SeriesNote:
        """What ingestion remembers of a series beside its rows."""
        return read_note(self._file(self._series_file(series_id, ".parquet")))

    def voi(self, series_id: str, slice: int) -> Voi:
        """All windows that a slice's tags have, the function they are meant for, and its VOI LUTs.

        Only the first window is in the index. Stores of earlier versions know of none.
        """
        return self.note(series_id).voi_of(slice)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "open_arrays": self.open_arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def _file(self, name: str) -> Path:
        """One of the store's files, on this machine."""
        return self.path / name

    def _series_file(self, series_id: str, suffix: str) -> str:
        return f"series/{series_id}{suffix}"

    def _open_array(self, series_id: str) -> SliceArray:
        file = self._file(self._series_file(series_id, ".b2nd"))
        if not file.is_file():
            raise self._no_series(series_id)
        return FileArray(file)

    def _no_series(self, series_id: str) -> StoreError:
        return StoreError(f"store {self.place}: has no series {series_id!r}; `SliceStore.series_ids` lists what it has")

    def _open(self, series_id: str) -> SliceArray:
        """The series' array; opened once by each thread of each process."""
        if getattr(self._local, "process", None) != os.getpid():
            self._local.process, self._local.arrays = os.getpid(), OrderedDict()
        arrays: OrderedDict[str, SliceArray] = self._local.arrays
        if series_id in arrays:
            arrays.move_to_end(series_id)
            return arrays[series_id]
        arrays[series_id] = self._open_array(series_id)
        if len(arrays) > self.open_arrays:
            arrays.popitem(last=False)
        return arrays[series_id]
