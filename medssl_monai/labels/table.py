"""Label tables, and the slices of a store that they speak of.

A table is CSV, or JSON with a list of objects, with the columns

    source   a path (relative ones from the table's folder), a SeriesInstanceUID, a series id of the store, or a query
             of its index: ``query: body_part == CHEST and plane == axial``, which labels all slices that it finds
    label    the name of the class; where several may hold at once (``multilabel``) their names with ``|`` between
             them, and ``|`` alone where none holds
    slice    optional: counted from 0 = most inferior; without it the label holds for every slice of the source
    patient  optional: any name that tells patients apart; without it the store's pseudonym does
    split    optional: train, validation or test

Other columns are ignored; these five are written in small letters.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medssl_monai.errors import LabelError
from medssl_monai.ingest.lookup import find_series
from medssl_monai.labels.cells import read_cells
from medssl_monai.labels.queries import check_query, is_query, select_slices
from medssl_monai.store.reader import SliceStore

SPLITS = ("train", "validation", "test")
SEPARATOR = "|"  # between the classes of a slice in a multi-label table

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

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that hold: one, or any number of a multi-label table's."""
        return tuple(filter(None, self.label.split(SEPARATOR)))


@dataclass(frozen=True)
class LabelTable:
    """A checked table; sources that are paths are joined with the table's folder."""

    path: Path
    rows: tuple[LabelRow, ...]
    multilabel: bool = False

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a label's number is its place here."""
        return tuple(sorted({name for row in self.rows for name in row.names}))

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
            whole = "all serve for training and for testing, so that what is judged is what was learned from"
            use = "they belong to none" if self.has_split else whole
            found.append(f"split unknown in {splits} of {len(self.rows)} rows: {use}")
        return tuple(found)


def read_labels(path: Path, *, multilabel: bool = False) -> LabelTable:
    """Read and check a label table.

    Args:
        path: the table.
        multilabel: whether a row may name several classes, or none.

    Raises:
        LabelError: the file is not readable or empty; a column is missing, there twice or written with other capitals;
            a slice is not a whole number from 0; a label or source is empty; a split is unknown; one slice has two
            labels; a patient is in two splits; several classes are named where one must be; a class has a name that a
            configuration would run, or that differs from another's in its capitals alone. The message names the row.
    """
    path = Path(path)
    rows = tuple(_row(path, number, cells, multilabel) for number, cells in enumerate(read_cells(path), start=1))
    if not rows:
        raise LabelError(f"{path}: a label table needs at least one row, found none; add rows below the heading")
    _refuse_contradictions(path, ((row.source, row) for row in rows))
    _refuse_leaks(path, ((row.patient, row) for row in rows if row.patient), "the patient")
    table = LabelTable(path, rows, multilabel)
    spelt: dict[str, tuple[str, int]] = {}
    for row in rows:
        for name in row.names:
            check_class_name(name, f"{path}, row {row.number}")
            other, number = spelt.setdefault(name.casefold(), (name, row.number))
            if other != name:
                raise LabelError(
                    f"{path}, row {row.number}: the class {name!r} differs from {other!r} in row {number} in its "
                    "capitals alone; write both the same, or give them names that differ"
                )
    if not table.classes:
        raise LabelError(f"{path}: no row names a class, so that there is nothing to learn; fill the column 'label'")
    return table


def check_class_name(name: str, where: str) -> None:
    """Refuse the names that MONAI's configurations, into which a run writes them, would not take as text.

    Raises:
        LabelError: `name` begins with ``$`` (it would be run as Python), ``@`` or ``%``, or holds ``#``.
    """
    if name.startswith(("$", "@", "%")) or "#" in name:
        raise LabelError(
            f"{where}: the class {name!r} may not begin with $, @ or %, nor hold #, which MONAI's configurations read "
            "as commands and references; rename it"
        )


def labelled_slices(
    table: LabelTable, store: SliceStore, key: bytes | None, *, split: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the store's index for the labelled slices, in the index's order.

    Args:
        table: from `read_labels`.
        store: that holds the sources of the rows asked for; those of other splits may be elsewhere.
        key: of the store's pseudonyms; None loads the user's own.
        split: only rows of this split; None takes all.

    Returns:
        Index rows (`ingest.schema.COLUMNS`) with `label` (place in `table.classes`; of a multi-label table the tuple of
        the places that hold), `label_name`, `split` ("" where unknown) and `patient`: the table's where it names one,
        else the store's pseudonym.

    Raises:
        LabelError: a source or slice is not in the store, or a query finds nothing; two sources are one series with
            two labels for a slice; a patient or series is in two splits.
    """
    for sentence in table.statements:
        logger.warning("%s: %s", table.path, sentence)
    asked = [row for row in table.rows if split is None or row.split == split]
    found = {row.number: select_slices(store, row.source) for row in table.rows if is_query(row.source)}
    _refuse_empty_queries(table.path, asked, found)
    series_of = _series_of(table, [row for row in asked if row.number not in found], store, key)
    slices_of = _slices_of(store, set(series_of.values()))
    known = [(series_of[row.source], row) for row in table.rows if row.source in series_of]
    _refuse_contradictions(table.path, known)
    for row in (row for row in table.rows if row.number in found):
        by_series = _by_series(found[row.number])
        slices_of = by_series | slices_of
        known += [(series, row) for series in by_series]
    _refuse_leaks(table.path, known, "the series")
    effective = ((row.patient or _patient(slices_of[series]), row) for series, row in known)
    _refuse_leaks(table.path, effective, "the patient")
    _warn_of_pseudonyms_in_two_splits(table.path, known, slices_of)

    numbers = {name: number for number, name in enumerate(table.classes)}
    labelled: dict[tuple[str, int], dict[str, Any]] = {}
    giver: dict[tuple[str, int], LabelRow] = {}
    for row in asked:
        if row.number in found:
            index_rows = iter(found[row.number])
        else:
            index_rows = _labelled_slices(table.path, row, slices_of[series_of[row.source]])
        for index_row in index_rows:
            place = (index_row["series_id"], index_row["slice"])
            if giver.setdefault(place, row).label != row.label:  # only a query can come to this
                raise LabelError(
                    f"{table.path}, row {row.number}: labels slice {place[1]} of the series {place[0]} {row.label!r}, "
                    f"but row {giver[place].number} labels it {giver[place].label!r}; keep one of them"
                )
            held = tuple(numbers[name] for name in row.names)
            labelled[place] = {
                **index_row,
                "label": held if table.multilabel else held[0],
                "label_name": row.label,
                "patient": row.patient or index_row["patient"],
                "split": row.split,
            }
    return [labelled[place] for place in sorted(labelled)]


def _refuse_empty_queries(path: Path, asked: list[LabelRow], found: dict[int, list[dict[str, Any]]]) -> None:
    for row in asked:
        if row.number in found and not found[row.number]:
            raise LabelError(
                f"{path}, row {row.number}: the query {row.source!r} finds no slice in the store; correct its values"
            )


def _by_series(index_rows: Iterable[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    grouped: dict[str, dict[int, dict[str, Any]]] = {}
    for index_row in index_rows:
        grouped.setdefault(index_row["series_id"], {})[index_row["slice"]] = index_row
    return grouped


def _row(path: Path, number: int, cells: dict[Any, Any], multilabel: bool) -> LabelRow:
    """One checked row."""
    for column in ("source", "label"):
        if column not in cells:
            raise LabelError(
                f"{path}, row {number}: the column {column!r} is missing, found "
                f"{', '.join(map(str, filter(None, cells))) or 'no columns'}; add it to the table"
            )
    if None in cells:  # what csv.DictReader makes of cells beyond the heading
        raise LabelError(f"{path}, row {number}: more cells than the heading has; quote text that holds a comma")
    texts = {name: _text(cells.get(name)) for name in ("source", "slice", "patient", "split")}
    texts["label"] = _label(path, number, cells["label"], multilabel)
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
    if is_query(texts["source"]):
        if texts["slice"]:
            raise LabelError(
                f"{path}, row {number}: a query labels every slice that it finds, and takes no 'slice'; leave it "
                "empty, or add `and slice == NUMBER` to the query"
            )
        check_query(texts["source"], f"{path}, row {number}")
    return LabelRow(
        number=number,
        source=texts["source"] if is_query(texts["source"]) else _source(path, texts["source"]),
        slice=int(texts["slice"]) if texts["slice"] else None,
        label=texts["label"],
        patient=texts["patient"],
        split=texts["split"],
    )


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _label(path: Path, number: int, cell: Any, multilabel: bool) -> str:
    """The name; of a multi-label table all names, sorted, each once, with ``|`` between them; "" for an empty cell."""
    several = isinstance(cell, list) or SEPARATOR in _text(cell)
    if several and not multilabel:
        raise LabelError(
            f"{path}, row {number}: a slice has one class, found {_text(cell)!r}; take the sign {SEPARATOR!r} out of "
            "its name, or set task=multilabel where several classes may hold at once"
        )
    if not several:
        return _text(cell)
    names = {_text(name) for name in (cell if isinstance(cell, list) else _text(cell).split(SEPARATOR))} - {""}
    return SEPARATOR.join(sorted(names)) or SEPARATOR


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
                series_of[row.source] = find_series(store, row.source, key)
            except LabelError as error:
                raise LabelError(f"{table.path}, row {row.number}: {error}") from error
    for row in table.rows:
        if row.source not in series_of:
            try:
                series_of[row.source] = find_series(store, row.source, key)
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
