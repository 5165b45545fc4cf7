"""Finds what sets of images should not share: patients, series, and slices that look alike.

The sets are stores (pre-training) and the splits of label tables. Patients are compared by pseudonym. A patient with
two identifiers is found by the slices instead: perceptual hashes that differ in a few bits, confirmed by correlation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from medssl_monai.errors import InputError, LabelError
from medssl_monai.ingest.open_store import open_store
from medssl_monai.labels.labelled_slices import labelled_slices, patients_of
from medssl_monai.labels.names import SPLITS
from medssl_monai.labels.near_duplicates import Slice, similar_slices
from medssl_monai.labels.table import LabelTable, read_labels
from medssl_monai.store.reader import SliceStore

HARMLESS = frozenset({frozenset({"pre-training", "train"})})
"""Kinds of sets that may share patients: pre-training uses no labels of the training set."""


@dataclass(frozen=True)
class SetSummary:
    """One of the sets compared.

    Attributes:
        name: unique among the sets.
        kind: pre-training, train, validation, test, or "" for a table's rows without a split.
        patients: number of pseudonyms.
        patients_unknown: series without a patient in their tags; each counts as one patient.
    """

    name: str
    kind: str
    series: int
    slices: int
    patients: int
    patients_unknown: int


@dataclass(frozen=True)
class Shared:
    """Patients or series in two sets; `names` are pseudonyms."""

    first: str
    second: str
    what: str
    names: tuple[str, ...]
    harmless: bool


@dataclass(frozen=True)
class NearDuplicate:
    """Two series of different patients, in two sets, with slices that look alike.

    Attributes:
        slices: number of slices of the first series with a similar slice in the second.
        distance: the smallest number of bits in which their hashes differ.
        correlation: of the most similar pair of slices.
        example: the numbers of that pair.
    """

    first: str
    second: str
    first_series: str
    second_series: str
    slices: int
    distance: int
    correlation: float
    example: tuple[int, int]
    harmless: bool


@dataclass(frozen=True)
class AuditReport:
    """What was compared, what is shared, and, as sentences, what could not be determined."""

    sets: tuple[SetSummary, ...]
    shared: tuple[Shared, ...]
    near_duplicates: tuple[NearDuplicate, ...]
    refusals: tuple[str, ...]
    statements: tuple[str, ...]

    @property
    def leaks(self) -> bool:
        """Whether the sets share anything that makes a test result too good."""
        return bool(self.refusals) or not (
            all(one.harmless for one in self.shared) and all(one.harmless for one in self.near_duplicates)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"leaks": self.leaks, **asdict(self)}


@dataclass(frozen=True)
class _Set:
    name: str
    kind: str
    store: SliceStore
    rows: list[dict[str, Any]]


def audit(
    inputs: Sequence[Path], *, store: Path | None = None, key: bytes | None = None, distance: int = 6
) -> AuditReport:
    """Compare stores and the splits of label tables, every pair of them.

    Args:
        inputs: stores, and label tables (CSV or JSON).
        store: the store of the tables' sources. By default the first store among the inputs; without one the sources
            are ingested into the cache.
        key: of the pseudonyms; None loads the user's own.
        distance: number of bits, of 64, in which the perceptual hashes of near-duplicates may differ; at most 15.

    Raises:
        InputError: an input is neither a store nor a table, or the distance is out of range.
        LabelError: a table cannot be read at all.
    """
    if not inputs:
        raise InputError("audit: needs stores or label tables, found none; give at least one")
    sets: list[_Set] = []
    refusals: list[str] = []
    statements: list[str] = []
    stores = [path for path in inputs if Path(path).is_dir()]
    for path in map(Path, inputs):
        if path.is_dir():
            opened = SliceStore(path)
            sets.append(_Set(_unique(path.name, sets), "pre-training", opened, opened.select()))
        else:
            home = store or (stores[0] if stores else None)
            try:
                sets += _splits(path, home, key, sets, statements)
            except LabelError as error:
                refusals.append(str(error))
    statements += _unknown(sets)
    pairs = list(combinations(sets, 2))
    shared = [one for first, second in pairs for one in _shared(first, second)]
    alike = [one for first, second in pairs for one in _near_duplicates(first, second, distance)]
    return AuditReport(
        tuple(_summary(one) for one in sets), tuple(shared), tuple(alike), tuple(refusals), tuple(statements)
    )


def _splits(
    path: Path, home: Path | None, key: bytes | None, before: Sequence[_Set], statements: list[str]
) -> list[_Set]:
    """The splits of a table, in alphabetic order; rows without a split are a set as well."""
    table: LabelTable = read_labels(path)
    statements += [f"{path.name}: {sentence}" for sentence in table.statements]
    sources = sorted({Path(row.source) for row in table.rows})
    store = SliceStore(home) if home is not None else open_store(sources, modality=None, key=key)
    several = any(one.kind != "pre-training" for one in before)
    found = []
    for split in sorted((*SPLITS, "")):
        rows = labelled_slices(table, store, key, split=split)
        if rows:
            name = f"{path.stem}: {split or 'no split'}" if several else split or "no split"
            found.append(_Set(_unique(name, before), split, store, rows))
    return found


def _unique(name: str, sets: Sequence[_Set]) -> str:
    taken = {one.name for one in sets}
    number = 2
    unique = name
    while unique in taken:
        unique, number = f"{name} ({number})", number + 1
    return unique


def _is_unknown(row: dict[str, Any], patient_of: dict[str, str]) -> bool:
    """Whether neither the tags nor a table name the patient."""
    return "patient_unknown" in row["flags"].split(",") and row["patient"] == patient_of.get(row["series_id"])


def _patients(one: _Set) -> dict[str, str]:
    """The store's pseudonym for the patient of each series of a set, whatever a table says."""
    wanted = {row["series_id"] for row in one.rows}
    return {series: patient for series, patient in patients_of(one.store).items() if series in wanted}


def _summary(one: _Set) -> SetSummary:
    tagged = _patients(one)
    unknown = {row["series_id"] for row in one.rows if _is_unknown(row, tagged)}
    return SetSummary(
        name=one.name,
        kind=one.kind,
        series=len({row["series_id"] for row in one.rows}),
        slices=len(one.rows),
        patients=len({row["patient"] for row in one.rows if row["series_id"] not in unknown}),
        patients_unknown=len(unknown),
    )


def _unknown(sets: Sequence[_Set]) -> list[str]:
    sentences = []
    for one in map(_summary, sets):
        if one.patients_unknown:
            sentences.append(
                f"{one.name}: {one.patients_unknown} of {one.series} series name no patient, so patients "
                "cannot be compared there; only slices are"
            )
    for first, second in combinations(sets, 2):
        if first.store.description["key_check"] != second.store.description["key_check"]:
            sentences.append(
                f"{first.name} and {second.name}: the pseudonyms have different keys, so patients cannot be "
                "compared; only slices are"
            )
    return sentences


def _harmless(first: _Set, second: _Set) -> bool:
    return frozenset({first.kind, second.kind}) in HARMLESS or first.kind == second.kind


def _shared(first: _Set, second: _Set) -> list[Shared]:
    """Patients, and beyond them series, of both sets."""
    found = []
    mine, yours = _patients(first), _patients(second)
    patients = set(mine.values()) & set(yours.values())
    series = {name for name in set(mine) & set(yours) if mine[name] not in patients}
    for what, names in (("patients", patients), ("series", series)):
        if names:
            found.append(Shared(first.name, second.name, what, tuple(sorted(names)), _harmless(first, second)))
    return found


def _near_duplicates(first: _Set, second: _Set, distance: int) -> list[NearDuplicate]:
    """Series of different patients with slices that look alike."""
    mine, yours = _patients(first), _patients(second)
    both = set(mine.values()) & set(yours.values())
    sides = [
        [
            Slice(one.store, row["series_id"], row["slice"], int(row["phash"], 16), row["modality"])
            for row in one.rows
            if patient_of[row["series_id"]] not in both and row["body_fraction"] > 0.02
        ]
        for one, patient_of in ((first, mine), (second, yours))
    ]
    by_series: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for pair in similar_slices(sides[0], sides[1], distance):
        by_series[pair.first.series_id, pair.second.series_id].append(pair)
    found = []
    for (one, other), pairs in sorted(by_series.items()):
        best = max(pairs, key=lambda pair: (pair.correlation, -pair.distance))
        found.append(
            NearDuplicate(
                first=first.name,
                second=second.name,
                first_series=one,
                second_series=other,
                slices=len(Counter(pair.first.slice for pair in pairs)),
                distance=min(pair.distance for pair in pairs),
                correlation=round(best.correlation, 4),
                example=(best.first.slice, best.second.slice),
                harmless=_harmless(first, second),
            )
        )
    return found
