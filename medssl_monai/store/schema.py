"""What a slice store says of itself: the columns of its index, each name, type and meaning once, and `store.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from medssl_monai.errors import StoreError
from medssl_monai.store.urls import remote_url

SCHEMA_VERSION = 2

COLUMNS: Mapping[str, tuple[Any, str]] = {
    "series_id": (pa.string(), "pseudonym of the series; names its files in the store"),
    "patient": (pa.string(), "pseudonym of the patient"),
    "slice": (pa.int32(), "0 = most inferior (sagittal: left, coronal: anterior)"),
    "study_day": (pa.int32(), "days since the patient's first study in the store; null where no date is known"),
    "z_mm": (pa.float64(), "z of the slice's centre in the patient, mm, growing to superior; null where unknown"),
    "plane": (pa.string(), "axial, sagittal, coronal, oblique; unknown where the tags say nothing"),
    "rows": (pa.int32(), "height H of the slice in pixels"),
    "columns": (pa.int32(), "width W of the slice in pixels"),
    "spacing_row_mm": (pa.float64(), "distance between rows, mm; null where unknown"),
    "spacing_column_mm": (pa.float64(), "distance between columns, mm; null where unknown"),
    "slice_spacing_mm": (pa.float64(), "distance to the next slice, mm (last: to the one before); null where unknown"),
    "modality": (pa.string(), "DICOM modality"),
    "body_part": (pa.string(), "BodyPartExamined, empty where unknown"),
    "kernel": (pa.string(), "ConvolutionKernel, empty where unknown"),
    "hu_min": (pa.int32(), "lowest value of the slice"),
    "hu_max": (pa.int32(), "highest value of the slice"),
    "body_fraction": (pa.float32(), "share of pixels that show the body (CT: above -300 HU)"),
    "phash": (pa.string(), "perceptual hash, 16 hex digits"),
    "window_level": (pa.float64(), "first WindowCenter of the tags, HU; of a picture the middle of its range; or null"),
    "window_width": (pa.float64(), "first WindowWidth of the tags, HU; of a picture the width of its range; or null"),
    "flags": (pa.string(), "words of verdicts.FLAGS, sorted, separated by commas"),
    "source_id": (pa.string(), "keyed hash of the path it came from"),
    "affine": (pa.list_(pa.float64()), "16 numbers: RAS affine of the grid (column, row, slice); null where unknown"),
}

INDEX_SCHEMA = pa.schema([(name, kind) for name, (kind, _) in COLUMNS.items()])

Filters = Sequence[Sequence[Any]]
"""pyarrow's disjunctive normal form: `[[column, operator, value], ...]`, all of which must hold, or a list of such."""


def describe(path: Path) -> dict[str, Any]:
    """The content of the store.json in a folder, checked.

    Raises:
        StoreError: there is no store, it is unfinished, or it has another schema version.
    """
    file = path / "store.json"
    if not file.is_file():
        if remote_url(path) is not None:
            raise StoreError(
                f"store {remote_url(path)}: is a URL, which is not taken here; give a folder, or use `open_store`"
            )
        if (path / "series").is_dir():
            raise StoreError(f"store {path}: its ingestion did not finish; run the same `medssl ingest` again")
        raise StoreError(
            f"store {path}: no slice store there (it has no store.json); make one with "
            f"`medssl ingest SOURCE --out {path}`"
        )
    return read_description(file.read_bytes(), path)


def read_description(content: bytes, store: str | Path) -> dict[str, Any]:
    """The content of a store.json, checked.

    Raises:
        StoreError: it is damaged, or has another schema version.
    """
    try:
        description: dict[str, Any] = json.loads(content)
        version = description["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"store {store}: store.json is not readable; ingest into a new folder") from error
    check_version(store, version)
    return description


def check_version(store: str | Path, version: object) -> None:
    """Refuses what another version of the program wrote.

    Raises:
        StoreError: the version is not this program's.
    """
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"store {store}: has schema version {version}, this program reads {SCHEMA_VERSION}; "
            "ingest the source again into a new folder, or use the program's version that made it"
        )


def conjunctions(filters: Filters) -> Sequence[Sequence[Any]]:
    """Filters as alternatives, of each of which all conditions must hold."""
    return [filters] if filters and isinstance(filters[0][0], str) else filters


def filter_expression(filters: Filters) -> Any:
    """A pyarrow expression for filters that may have come from YAML, where there are no tuples.

    Raises:
        StoreError: a filter is malformed or names no column.
    """
    from pyarrow.parquet import filters_to_expression

    alternatives = conjunctions(filters)
    for condition in (condition for conjunction in alternatives for condition in conjunction):
        if len(condition) != 3 or condition[0] not in COLUMNS:
            raise StoreError(
                f"filter {list(condition)!r}: must be [column, operator, value] with a column of the index; "
                f"there are {', '.join(COLUMNS)}"
            )
    try:
        return filters_to_expression([[tuple(condition) for condition in one] for one in alternatives])
    except (ValueError, TypeError) as error:
        raise StoreError(f"filters {filters!r}: {error}; operators are ==, !=, <, >, <=, >=, in, not in") from error
