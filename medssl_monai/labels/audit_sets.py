"""The sets of slices that an audit compares: stores, and the splits of label tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from medssl_monai.ingest.open_store import open_store
from medssl_monai.labels.labelled_slices import labelled_slices, patients_of
from medssl_monai.labels.names import SPLITS
from medssl_monai.labels.near_duplicates import Pixels
from medssl_monai.labels.table import read_any_labels
from medssl_monai.store.places import store_at
from medssl_monai.store.reader import SliceStore

LEAST_BODY = 0.02
"""Slices that show less of the body look alike whoever they are of."""


class Audited(NamedTuple):
    """A slice or a picture.

    Attributes:
        series_id: of the series; of a picture its path.
        slice: its number; 0 of a picture.
        patient: as the labels name the patient.
        unknown: whether neither tags nor labels name the patient.
        label: names of the classes that hold; "" where there are no labels.
        phash: perceptual hash.
        modality: DICOM's word; OT for pictures.
        comparable: whether there is enough in it for the hash to mean something.
        digests: of a picture's file and of its pixels.
        facts: of a picture's file, such as its format.
    """

    series_id: str
    slice: int
    patient: str
    unknown: bool
    label: str
    phash: int
    modality: str
    comparable: bool
    digests: tuple[str, str] = ("", "")
    facts: Mapping[str, str] = {}


@dataclass(frozen=True)
class AuditSet:
    """What is compared as a whole.

    Attributes:
        name: unique among the sets.
        kind: pre-training, train, validation, test, or "".
        origin: the input that it comes from.
        pixels: where they are read.
        items: the slices.
        patients: of each series by the images' own tags, whatever a table says.
        key: patients can be compared only where it is the same.
    """

    name: str
    kind: str
    origin: str
    pixels: Pixels
    items: Sequence[Audited]
    patients: Mapping[str, str]
    key: str = field(default="")


def store_set(path: Path) -> AuditSet:
    """A whole store, for pre-training."""
    store = store_at(path)
    return slice_set(path.name, "pre-training", path.name, store, store.select())


def slice_set(name: str, kind: str, origin: str, store: SliceStore, rows: Iterable[Mapping[str, Any]]) -> AuditSet:
    """Some rows of a store's index, with labels or without."""
    rows = list(rows)
    wanted = {row["series_id"] for row in rows}
    tagged = {series: patient for series, patient in patients_of(store).items() if series in wanted}
    items = [
        Audited(
            row["series_id"],
            row["slice"],
            row["patient"],
            "patient_unknown" in row["flags"].split(",") and row["patient"] == tagged[row["series_id"]],
            row.get("label_name", ""),
            int(row["phash"], 16),
            row["modality"],
            row["body_fraction"] > LEAST_BODY,
        )
        for row in rows
    ]
    return AuditSet(name, kind, origin, store, items, tagged, str(store.description["key_check"]))


def table_sets(path: Path, home: Path | None, key: bytes | None) -> tuple[list[AuditSet], list[str]]:
    """The splits of a table, in alphabetic order, and what the table leaves unknown.

    Rows without a split are a set as well.
    """
    table = read_any_labels(path)
    sources = sorted({Path(row.source) for row in table.rows})
    store = store_at(home) if home is not None else open_store(sources, modality=None, key=key)
    found = []
    for split in sorted((*SPLITS, "")):
        rows = labelled_slices(table, store, key, split=split)
        if rows:
            found.append(slice_set(split or "no split", split, path.stem, store, rows))
    return found, [f"{path.name}: {sentence}" for sentence in table.statements]
