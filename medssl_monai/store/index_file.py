"""A store's index, read a batch of rows at a time, and only in the columns that are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from medssl_monai.store.schema import COLUMNS, Filters, conjunctions, filter_expression

INDEX_NAME = "index.parquet"
BATCH_ROWS = 1 << 16


def columns_of(filters: Filters | None) -> set[str]:
    """The columns that filters test."""
    return {condition[0] for conjunction in conjunctions(filters or ()) for condition in conjunction}


def filtered_tables(store: Path, filters: Filters | None, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows that pass, in the index's order, without the whole index in memory.

    Args:
        store: the store's folder.
        filters: see `SliceStore.select`.
        columns: of the tables, see `schema.COLUMNS`.

    Raises:
        StoreError: a filter is malformed or names no column.
    """
    expression = filter_expression(filters) if filters else None
    read = [name for name in COLUMNS if name in columns or name in columns_of(filters)]
    with pq.ParquetFile(store / INDEX_NAME) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=read, use_threads=False):
            table = pa.Table.from_batches([batch])
            yield (table if expression is None else table.filter(expression)).select(list(columns))


def count_rows(store: Path, filters: Filters | None) -> int:
    """How many rows pass."""
    return sum(table.num_rows for table in filtered_tables(store, filters, ["slice"]))
