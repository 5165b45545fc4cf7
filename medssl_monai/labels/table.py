"""Label tables: the file format and its checks.

A table is CSV, or JSON with a list of objects. Its columns are

    source   a path (relative ones from the table's folder), a SeriesInstanceUID, a series id of the store, or a query
             of its index: ``query: body_part == CHEST and plane == axial``, which labels all slices that it finds
    label    the name of the class. In a multi-label table: the names of all classes that hold, separated by ``|``, or
             ``|`` alone if none holds
    slice    optional: counted from 0 = most inferior; without it the label holds for every slice of the source
    patient  optional: any name that identifies the patient; without it the store's pseudonym is used
    split    optional: train, validation or test; `split_named` tells which spellings are known

Other columns are ignored. Column names are lower case.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from medssl_monai.errors import ContradictionError, LabelError
from medssl_monai.labels.cells import read_cells
from medssl_monai.labels.names import (
    SPLITS,
    check_class_name,
    class_named,
    is_missing,
    split_named,
    split_suggestion,
    two_forms,
)
from medssl_monai.labels.queries import check_query, is_query

LONGEST_NAME, LONGEST_PATH = 255, 4095
SEPARATOR = "|"  # between the classes of a slice in a multi-label table


@dataclass(frozen=True)
class LabelRow:
    """One row. `number` counts from 1 below the heading; `slice` None means all; an unknown patient or split is ""."""

    number: int
    source: str
    slice: int | None
    label: str
    patient: str
    split: str

    @property
    def names(self) -> tuple[str, ...]:
        """The classes that hold: one, or any number in a multi-label table."""
        return tuple(filter(None, self.label.split(SEPARATOR)))


@dataclass(frozen=True)
class LabelTable:
    """A checked table; sources that are paths are joined with the table's folder.

    Attributes:
        path: of the file.
        rows: in its order.
        multilabel: whether a row may name several classes, or none.
        spellings: sentences on class names that are written in two ways and mean one class.
    """

    path: Path
    rows: tuple[LabelRow, ...]
    multilabel: bool = False
    spellings: tuple[str, ...] = ()

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted; a class index is a position here."""
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
        """Sentences about what the table leaves unknown, and on names that are written in two ways."""
        found = list(self.spellings)
        patients = sum(not row.patient for row in self.rows)
        splits = sum(not row.split for row in self.rows)
        if patients:
            found.append(
                f"patient unknown in {patients} of {len(self.rows)} rows: the store's pseudonyms are used instead"
            )
        if splits:
            whole = "they are used for training and testing alike, so the test is on training data"
            use = "they are in no split" if self.has_split else whole
            found.append(f"split unknown in {splits} of {len(self.rows)} rows: {use}")
        return tuple(found)


def read_labels(path: Path, *, multilabel: bool = False) -> LabelTable:
    """Read and check a label table.

    Args:
        path: the table.
        multilabel: whether a row may name several classes, or none.

    Raises:
        LabelError: the file is not readable or empty; a column is missing, repeated or written with other capitals; a
            slice is not a whole number from 0; a label or source is empty; a split is unknown; a row of a single-label
            table names several classes; a class or a patient is called "nan"; a class name would run as code in a
            configuration, or differs from another only in its capitals. The message names the row.
        ContradictionError: one slice has two labels, or a patient is in two splits.

    Example:
        >>> read_labels(Path("labels.csv")).classes  # doctest: +SKIP
        ('abdomen', 'head', 'thorax')
    """
    path = Path(path)
    cells = read_cells(path)
    rows = tuple(_row(path, number, row, multilabel) for number, row in enumerate(cells, start=1))
    if not rows:
        raise LabelError(f"{path}: a label table needs at least one row, found none; add rows below the heading")
    refuse_contradictions(path, ((row.source, row) for row in rows))
    refuse_leaks(path, ((row.patient, row) for row in rows if row.patient), "the patient")
    table = LabelTable(path, rows, multilabel, two_forms(name for row in cells for name in _spelt(row["label"])))
    spelt: dict[str, tuple[str, int]] = {}
    for row in rows:
        for name in row.names:
            check_class_name(name, f"{path}, row {row.number}")
            other, number = spelt.setdefault(name.casefold(), (name, row.number))
            if other != name:
                raise LabelError(
                    f"{path}, row {row.number}: the class {name!r} differs from {other!r} in row {number} only in "
                    "its capitals; write both the same, or give them different names"
                )
    if not table.classes:
        raise LabelError(f"{path}: no row names a class, so there is nothing to learn; fill the column 'label'")
    return table


def read_any_labels(path: Path) -> LabelTable:
    """`read_labels`, with several labels per slice where a cell holds a list or the sign ``|``."""
    cells = (row.get("label") for row in read_cells(path))
    return read_labels(path, multilabel=any(isinstance(cell, list) or SEPARATOR in _text(cell) for cell in cells))


def _row(path: Path, number: int, cells: dict[Any, Any], multilabel: bool) -> LabelRow:
    """One checked row."""
    for column in ("source", "label"):
        if column not in cells:
            other = next((f"{sign!r}" for sign in ";\t" if any(sign in str(name) for name in cells)), "")
            if other:
                raise LabelError(
                    f"{path}: the cells are separated by {other}, and those of a label table by commas; save it so"
                )
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
    for column, text in texts.items():
        if re.search("[\0\ud800-\udfff]", text):
            raise LabelError(
                f"{path}, row {number}: {column!r} holds a character that no text has (NUL, or half of a pair), found "
                f"{text[:80]!r}; correct it"
            )
    split = split_named(texts["split"])
    if texts["split"] and split is None:
        hint = split_suggestion(texts["split"])
        raise LabelError(
            f"{path}, row {number}: 'split' is one of {', '.join(SPLITS)}, found {texts['split']!r}{hint}; correct it"
        )
    if is_missing(texts["patient"]):
        raise LabelError(
            f"{path}, row {number}: the patient {texts['patient']!r} is how pandas writes a missing value, and would "
            "be one patient in all such rows; leave the cell empty where the patient is unknown"
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
        source=texts["source"] if is_query(texts["source"]) else _source(path, number, texts["source"]),
        slice=int(texts["slice"]) if texts["slice"] else None,
        label=texts["label"],
        patient=texts["patient"],
        split=split or "",
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
        return class_named(_text(cell))
    return SEPARATOR.join(sorted({class_named(name) for name in _spelt(cell)} - {""})) or SEPARATOR


def _spelt(cell: Any) -> list[str]:
    """The names of the classes as they are written."""
    return [_text(name) for name in (cell if isinstance(cell, list) else _text(cell).split(SEPARATOR))]


def _source(path: Path, number: int, text: str) -> str:
    """The source, joined with the table's folder if it is a path; identifiers have no separator and name no file."""
    joined = path.parent / text
    longest = max(len(os.fsencode(part)) for part in joined.parts)
    if longest > LONGEST_NAME or len(os.fsencode(joined)) > LONGEST_PATH:
        raise LabelError(
            f"{path}, row {number}: the source {text[:40]!r}… has {len(text)} characters, more than a path may have "
            f"({LONGEST_NAME} bytes a name, {LONGEST_PATH} in all); correct it"
        )
    return str(joined) if "/" in text or "\\" in text or joined.exists() else text


def refuse_contradictions(path: Path, named_rows: Iterable[tuple[str, LabelRow]]) -> None:
    """Raise ContradictionError if a slice has two labels; a row without a slice labels all of them."""
    first: dict[str, dict[int | None, LabelRow]] = {}
    for name, row in named_rows:
        seen = first.setdefault(name, {})
        others = seen.values() if row.slice is None else [seen[place] for place in (None, row.slice) if place in seen]
        for other in others:
            if other.label != row.label:
                what = "every slice" if row.slice is None else f"slice {row.slice}"
                raise ContradictionError(
                    f"{path}, row {row.number}: {what} of {row.source} is labelled {row.label!r}, but row "
                    f"{other.number} labels it {other.label!r}; keep one of them"
                )
        seen.setdefault(row.slice, row)


def refuse_leaks(path: Path, named_rows: Iterable[tuple[str, LabelRow]], what: str) -> None:
    """Raise ContradictionError if a patient or series is in two splits.

    The message names rows, because a patient's name may be a real one.
    """
    first: dict[str, LabelRow] = {}
    for name, row in named_rows:
        if row.split:
            other = first.setdefault(name, row)
            if other.split != row.split:
                raise ContradictionError(
                    f"{path}, row {row.number}: {what} is in the split {row.split!r}, but in row {other.number} in "
                    f"{other.split!r}, so the test would include patients seen in training; "
                    "give all rows of a patient one split"
                )
