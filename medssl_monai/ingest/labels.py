"""Label tables, and the slices of a store that they speak of.

A table is CSV, or JSON with a list of objects, with the columns

    source   a path (relative ones from the table's folder), a SeriesInstanceUID, or a series id of the store
    label    the name of the class
    slice    optional: counted from 0 = most inferior; without it the label holds for every slice of the source
    patient  optional: any name that tells patients apart; without it the store's pseudonym does
    split    optional: train, validation or test

Other columns are ignored.
"""

import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medssl_monai.errors import LabelError
from medssl_monai.ingest.store import SliceStore

__all__ = ["SPLITS", "LabelRow", "LabelTable", "read_labels", "resolve"]

SPLITS = ("train", "validation", "test")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelRow:
    """One row: `number` counts from 1 below the heading; `slice` None means all; "" for an unknown patient or split."""

    number: int
    source: str
    slice: int | None
    label: str
    patient: str
    split: str


@dataclass(frozen=True)
class LabelTable:
    """A checked table; sources that are paths are joined with the table's folder."""

    path: Path
    rows: tuple[LabelRow, ...]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a label's number is its place here."""
        return tuple(sorted({row.label for row in self.rows}))

    @property
    def has_split(self) -> bool:
        """Whether any row has a split."""
        return any(row.split for row in self.rows)

    @property
    def has_patient(self) -> bool:
        """Whether every row has a patient."""
        return all(row.patient for row in self.rows)

    @cached_property
    def statements(self) -> tuple[str, ...]:
        """What the table leaves unknown, as sentences; empty when it leaves nothing."""
        found = []
        patients = sum(not row.patient for row in self.rows)
        splits = sum(not row.split for row in self.rows)
        if patients:
            found.append(
                f"patient unknown in {patients} of {len(self.rows)} rows: the store's pseudonyms tell patients apart"
            )
        if splits:
            use = "they belong to none" if self.has_split else "nothing holds train and test apart"
            found.append(f"split unknown in {splits} of {len(self.rows)} rows: {use}")
        return tuple(found)


def read_labels(path: Path) -> LabelTable:
    """Read and check a label table.

    Raises:
        LabelError: the file is not readable or empty; a column is missing; a slice is not a whole number from 0; a
            label or source is empty; a split is unknown; one slice has two labels; a patient is in two splits. The
            message names the row.
    """
    path = Path(path)
    rows = tuple(_row(path, number, cells) for number, cells in enumerate(_read_cells(path), start=1))
    if not rows:
        raise LabelError(f"{path}: a label table needs at least one row, found none; add rows below the heading")
    _refuse_contradictions(path, ((row.source, row) for row in rows))
    _refuse_leaks(path, ((row.patient, row) for row in rows if row.patient), "the patient")
    return LabelTable(path, rows)


def resolve(
    table: LabelTable, store: SliceStore, key: bytes | None, *, split: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the store's index for the labelled slices, in the index's order.

    Args:
        table: from `read_labels`.
        store: that holds the sources of the rows asked for; those of other splits may be elsewhere.
        key: of the store's pseudonyms; None loads the user's own.
        split: only rows of this split; None takes all.

    Returns:
        Index rows (`ingest.schema.COLUMNS`) with `label` (place in `table.classes`), `label_name`, `split` ("" where
        unknown) and `patient`: the table's where it names one, else the store's pseudonym.

    Raises:
        LabelError: a source or slice is not in the store; two sources are one series with two labels for a slice; a
            patient or series is in two splits.
    """
    for sentence in table.statements:
        logger.warning("%s: %s", table.path, sentence)
    asked = [row for row in table.rows if split is None or row.split == split]
    series_of = _series_of(table, asked, store, key)
    slices_of = _slices_of(store, set(series_of.values()))
    known = [(series_of[row.source], row) for row in table.rows if row.source in series_of]
    _refuse_contradictions(table.path, known)
    _refuse_leaks(table.path, known, "the series")
    effective = ((row.patient or _patient(slices_of[series]), row) for series, row in known)
    _refuse_leaks(table.path, effective, "the patient")
    _warn_of_pseudonyms_in_two_splits(table.path, known, slices_of)

    numbers = {name: number for number, name in enumerate(table.classes)}
    labelled: dict[tuple[str, int], dict[str, Any]] = {}
    for row in asked:
        series = series_of[row.source]
        for index_row in _labelled_slices(table.path, row, slices_of[series]):
            labelled[series, index_row["slice"]] = {
                **index_row,
                "label": numbers[row.label],
                "label_name": row.label,
                "patient": row.patient or index_row["patient"],
                "split": row.split,
            }
    return [labelled[place] for place in sorted(labelled)]


def _read_cells(path: Path) -> list[dict[Any, Any]]:
    """The rows of the file, as the file has them."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise LabelError(f"{path}: the label table cannot be read ({reason}); name a CSV or JSON file") from error
    if path.suffix.lower() == ".json":
        try:
            cells = json.loads(text)
        except ValueError as error:
            raise LabelError(f"{path}: not readable as JSON ({error}); correct it or use CSV") from error
        if not isinstance(cells, list) or not all(isinstance(row, dict) for row in cells):
            raise LabelError(f"{path}: a JSON label table is a list of objects, found something else; correct it")
    else:
        try:
            cells = list(csv.DictReader(io.StringIO(text, newline=""), restval="", skipinitialspace=True))
        except csv.Error as error:
            raise LabelError(f"{path}: not readable as CSV ({error}); correct it") from error
    return cells


def _row(path: Path, number: int, cells: dict[Any, Any]) -> LabelRow:
    """One checked row."""
    for column in ("source", "label"):
        if column not in cells:
            raise LabelError(
                f"{path}, row {number}: the column {column!r} is missing, found "
                f"{', '.join(map(str, filter(None, cells))) or 'no columns'}; add it to the table"
            )
    if None in cells:  # what csv.DictReader makes of cells beyond the heading
        raise LabelError(f"{path}, row {number}: more cells than the heading has; quote text that holds a comma")
    texts = {name: _text(cells.get(name)) for name in ("source", "slice", "label", "patient", "split")}
    for column in ("source", "label"):
        if not texts[column]:
            raise LabelError(f"{path}, row {number}: {column!r} may not be empty; fill it in or delete the row")
    if texts["slice"] and not (texts["slice"].isascii() and texts["slice"].isdigit()):
        raise LabelError(
            f"{path}, row {number}: 'slice' is a whole number counted from 0 = most inferior, found "
            f"{texts['slice']!r}; correct it, or leave it empty to label every slice of the source"
        )
    if texts["split"] and texts["split"] not in SPLITS:
        raise LabelError(
            f"{path}, row {number}: 'split' is one of {', '.join(SPLITS)}, found {texts['split']!r}; correct it"
        )
    return LabelRow(
        number=number,
        source=_source(path, texts["source"]),
        slice=int(texts["slice"]) if texts["slice"] else None,
        label=texts["label"],
        patient=texts["patient"],
        split=texts["split"],
    )


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _source(path: Path, text: str) -> str:
    """Joined with the table's folder when it is a path; identifiers have no separators and name no file there."""
    joined = path.parent / text
    return str(joined) if "/" in text or "\\" in text or joined.exists() else text


def _refuse_contradictions(path: Path, named_rows: Iterable[tuple[str, LabelRow]]) -> None:
    """A slice has one label; a row without a slice speaks of all of them."""
    first: dict[str, dict[int | None, LabelRow]] = {}
    for name, row in named_rows:
        seen = first.setdefault(name, {})
        others = seen.values() if row.slice is None else [seen[place] for place in (None, row.slice) if place in seen]
        for other in others:
            if other.label != row.label:
                what = "every slice" if row.slice is None else f"slice {row.slice}"
                raise LabelError(
                    f"{path}, row {row.number}: {what} of {row.source} is labelled {row.label!r}, but row "
                    f"{other.number} labels it {other.label!r}; keep one of them"
                )
        seen.setdefault(row.slice, row)


def _refuse_leaks(path: Path, named_rows: Iterable[tuple[str, LabelRow]], what: str) -> None:
    """No patient and no series is in two splits. The message names rows: a patient's name may be a real one."""
    first: dict[str, LabelRow] = {}
    for name, row in named_rows:
        if row.split:
            other = first.setdefault(name, row)
            if other.split != row.split:
                raise LabelError(
                    f"{path}, row {row.number}: {what} is in the split {row.split!r}, but in row {other.number} in "
                    f"{other.split!r}, so that the test would be on patients seen in training; "
                    "give all rows of a patient one split"
                )


def _series_of(table: LabelTable, asked: list[LabelRow], store: SliceStore, key: bytes | None) -> dict[str, str]:
    """Series id of each source; all that is asked for must be there, the rest is looked up where it is."""
    series_of: dict[str, str] = {}
    for row in asked:
        if row.source not in series_of:
            try:
                series_of[row.source] = store.resolve(row.source, key)
            except LabelError as error:
                raise LabelError(f"{table.path}, row {row.number}: {error}") from error
    for row in table.rows:
        if row.source not in series_of:
            try:
                series_of[row.source] = store.resolve(row.source, key)
            except LabelError:
                logger.debug("%s, row %d: the source is not in this store", table.path, row.number)
    return series_of


def _slices_of(store: SliceStore, series: set[str]) -> dict[str, dict[int, dict[str, Any]]]:
    """Index rows of these series, by series and slice."""
    found: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in series}
    for row in store.select([["series_id", "in", sorted(series)]]) if series else []:
        found[row["series_id"]][row["slice"]] = row
    return found


def _patient(slices: dict[int, dict[str, Any]]) -> str:
    return str(next(iter(slices.values()))["patient"])


def _warn_of_pseudonyms_in_two_splits(
    path: Path, known: list[tuple[str, LabelRow]], slices_of: dict[str, dict[int, dict[str, Any]]]
) -> None:
    """Patients that the table tells apart and the images' tags do not: the table is believed, but not in silence."""
    splits: dict[str, set[str]] = {}
    for series, row in known:
        if row.split:
            splits.setdefault(_patient(slices_of[series]), set()).add(row.split)
    twice = sum(len(names) > 1 for names in splits.values())
    if twice:
        logger.warning(
            "%s: %d patient(s) by the images' own identifiers are in two splits under different names in the table; "
            "the table is believed",
            path,
            twice,
        )


def _labelled_slices(path: Path, row: LabelRow, slices: dict[int, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if row.slice is None:
        yield from slices.values()
    elif row.slice in slices:
        yield slices[row.slice]
    else:
        raise LabelError(
            f"{path}, row {row.number}: {row.source} has slices {min(slices)} to {max(slices)} in the store, not "
            f"{row.slice}; slices count from 0 = most inferior: correct the number"
        )
