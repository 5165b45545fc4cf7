"""The files of one series, an array and a parquet part with its rows, and the index that all parts make.

Every array is written by one thread with fixed parameters, so that equal slices give equal bytes. What other codecs and
levels cost stands in docs/ingest.md.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from medssl_monai.store.disk import disk_refused
from medssl_monai.store.measures import body_fraction, perceptual_hash
from medssl_monai.store.records import NOTE_KEY, SeriesHeader, SeriesNote, SliceRecord
from medssl_monai.store.schema import INDEX_SCHEMA

ROWS_TOGETHER = 2048
"""Rows of the index written at once, at least."""


def write_array(
    path: Path, header: SeriesHeader, slices: Iterable[SliceRecord]
) -> tuple[list[dict[str, Any]], frozenset[str]]:
    """Compresses the slices one after another; gives the rows of the index, and the slices' flags."""
    import blosc2

    block = (1, *header.shape[1:])
    array = blosc2.empty(
        header.shape,
        dtype=np.int16,
        chunks=block,
        blocks=block,
        urlpath=str(path),
        mode="w",
        contiguous=True,
        cparams=blosc2.CParams(
            codec=blosc2.Codec.ZSTD, clevel=1, filters=[blosc2.Filter.BITSHUFFLE], typesize=2, nthreads=1
        ),
        dparams=blosc2.DParams(nthreads=1),
    )
    rows: list[dict[str, Any]] = []
    flags: set[str] = set()
    for number, record in enumerate(slices):
        # A block is a slice: handed over as it is, which the array's own indexing would take half as long again to do.
        try:
            array.schunk.update_data(number, np.ascontiguousarray(record.pixels), copy=True)
        except RuntimeError as error:  # blosc2 does not say why; compression cannot fail
            raise disk_refused(path.parent, OSError(errno.EIO, "the disk took no more slices")) from error
        rows.append(_row(header, number, record))
        flags |= record.flags
    assert len(rows) == header.shape[0], (len(rows), header.shape)
    return rows, frozenset(flags)


def _row(header: SeriesHeader, number: int, record: SliceRecord) -> dict[str, Any]:
    row_mm, column_mm = record.spacing_mm or (None, None)
    return {
        "series_id": header.series_id,
        "patient": header.patient,
        "slice": number,
        "study_day": header.shifted_day,
        "z_mm": record.z_mm,
        "plane": header.plane,
        "rows": header.shape[1],
        "columns": header.shape[2],
        "spacing_row_mm": row_mm,
        "spacing_column_mm": column_mm,
        "slice_spacing_mm": record.slice_spacing_mm,
        "modality": header.modality,
        "body_part": header.body_part,
        "kernel": header.kernel,
        "hu_min": int(record.pixels.min()),
        "hu_max": int(record.pixels.max()),
        "body_fraction": body_fraction(record.pixels, header.modality),
        "phash": perceptual_hash(record.pixels, header.modality),
        "window_level": record.window_level,
        "window_width": record.window_width,
        "flags": ",".join(sorted(header.flags | record.flags)),
        "source_id": header.source_id,
        "affine": None if header.affine is None else list(header.affine),
    }


def write_part(path: Path, rows: Sequence[dict[str, Any]], note: SeriesNote) -> None:
    """The rows of a series, with its note."""
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA).replace_schema_metadata({NOTE_KEY: note.to_bytes()})
    pq.write_table(table, path, compression="zstd")


def write_index(path: Path, parts: Sequence[Path]) -> int:
    """All parts in one file, with days counted from each patient's first, which parts do not know of one another.

    Returns:
        The number of rows.
    """
    first: dict[str, int] = {}
    for part in parts:
        patient, day = (column[0].as_py() for column in _read(part, ["patient", "study_day"]))
        if day is not None:
            first[patient] = min(day, first.get(patient, day))
    rows, waiting = 0, INDEX_SCHEMA.empty_table()
    with pq.ParquetWriter(path, INDEX_SCHEMA, compression="zstd") as file:
        for part in parts:
            table = _read(part).cast(INDEX_SCHEMA)
            rows += table.num_rows
            waiting = pa.concat_tables([waiting, _with_relative_days(table, first)])
            if waiting.num_rows >= ROWS_TOGETHER:
                file.write_table(waiting)
                waiting = waiting.slice(0, 0)
        file.write_table(waiting)
    return rows


def _read(part: Path, columns: list[str] | None = None) -> pa.Table:
    """Without `pyarrow.dataset`, which `read_table` would load at a cost of 10 MB."""
    with pq.ParquetFile(part) as file:
        return file.read(columns, use_threads=False).replace_schema_metadata(None)


def _with_relative_days(rows: pa.Table, first: Mapping[str, int]) -> pa.Table:
    """The rows of one series, its day counted from its patient's first."""
    days = pc.subtract(rows.column("study_day"), pa.scalar(first.get(rows.column("patient")[0].as_py()), pa.int32()))
    return rows.set_column(rows.schema.get_field_index("study_day"), INDEX_SCHEMA.field("study_day"), days)
