"""The slices of a store that a label table names."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_csv
from medssl_monai.errors import ContradictionError, LabelError
from medssl_monai.ingest.lookup import MissingSourceError, find_series
from medssl_monai.labels.cells import COLUMNS
from medssl_monai.labels.queries import is_query, select_slices
from medssl_monai.labels.table import LabelRow, LabelTable, refuse_contradictions, refuse_leaks
from medssl_monai.store.reader import SliceStore

logger = logging.getLogger(__name__)


def labelled_slices(
    table: LabelTable, store: SliceStore, key: bytes | None, *, split: str | None = None, without_missing: bool = False
) -> list[dict[str, Any]]:
    """Rows of the store's index for the labelled slices, sorted by series and slice.

    Args:
        table: from `read_labels`.
        store: holds the sources of these rows; sources of other splits may be elsewhere.
        key: of the store's pseudonyms; None loads the user's own.
        split: only rows of this split; None takes all.
        without_missing: leave out rows with a source that is not in the store, with one warning that counts them;
            unless none is there.

    Returns:
        Index rows (`store.schema.COLUMNS`) with `label` (index in `table.classes`; for a multi-label table a tuple of
        indices), `label_name`, `split` ("" if unknown) and `patient` (from the table, or else the store's pseudonym).

    Raises:
        LabelError: a source (`MissingSourceError`) or slice is not in the store, or a query finds nothing.
        ContradictionError: two sources are one series with two labels for a slice, or a patient or series is in two
            splits.
    """
    for sentence in table.statements:
        logger.warning("%s: %s", table.path, sentence)
    asked = [row for row in table.rows if split is None or row.split == split]
    found = {row.number: select_slices(store, row.source) for row in table.rows if is_query(row.source)}
    _refuse_empty_queries(table.path, asked, found)
    by_name = [row for row in asked if row.number not in found]
    series_of = _series_of(table, by_name, store, key, without_missing)
    if missing := [row for row in by_name if row.source not in series_of]:
        asked = [row for row in asked if row.number in found or row.source in series_of]
        _tell_missing(table.path, split, missing, len(asked), store)
    slices_of = _slices_of(store, set(series_of.values()))
    known = [(series_of[row.source], row) for row in table.rows if row.source in series_of]
    refuse_contradictions(table.path, known)
    for row in (row for row in table.rows if row.number in found):
        by_series = _by_series(found[row.number])
        slices_of = by_series | slices_of
        known += [(series, row) for series in by_series]
    refuse_leaks(table.path, known, "the series")
    effective = ((row.patient or _patient(slices_of[series]), row) for series, row in known)
    refuse_leaks(table.path, effective, "the patient")
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
            if giver.setdefault(place, row).label != row.label:  # possible only with a query
                raise ContradictionError(
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


def write_labelled_slices(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows of `labelled_slices` as a label table by series ids, which needs neither paths nor a pseudonym key."""
    names = ("series_id", "slice", "label_name", "patient", "split")
    write_csv(path, COLUMNS, ([row[name] for name in names] for row in rows))
    return path


def patients_of(store: SliceStore) -> dict[str, str]:
    """The store's pseudonym for the patient of each series."""
    index = store.select_table(None, ["series_id", "patient"]).group_by(["series_id", "patient"]).aggregate([])
    return {pair["series_id"]: pair["patient"] for pair in index.to_pylist()}


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


def _series_of(
    table: LabelTable, asked: list[LabelRow], store: SliceStore, key: bytes | None, without_missing: bool
) -> dict[str, str]:
    """Series id of each source. Those in `asked` must be there, or may be missing too; others may be elsewhere."""
    series_of: dict[str, str] = {}
    wanted = {row.source for row in asked}
    missing: set[str] = set()
    for row in (*asked, *table.rows):
        if row.source not in series_of and row.source not in missing:
            try:
                series_of[row.source] = find_series(store, row.source, key)
            except LabelError as error:
                if row.source in wanted and not (without_missing and isinstance(error, MissingSourceError)):
                    raise LabelError(f"{table.path}, row {row.number}: {error}") from error
                missing.add(row.source)  # files may have been opened for it, and many rows name it
                logger.debug("%s, row %d: the source is not in this store", table.path, row.number)
    return series_of


def _tell_missing(path: Path, split: str | None, missing: list[LabelRow], others: int, store: SliceStore) -> None:
    sources, first = len({row.source for row in missing}), missing[0]
    of = f"{split} rows" if split else "rows"
    told = (
        f"{path}: {len(missing)} of {len(missing) + others} {of} name sources ({sources}, the first in row "
        f"{first.number}: {Path(first.source).name}) that are not in store {store.place}"
    )
    if not others:
        raise LabelError(f"{told}; ingest them, or give the store that holds them")
    logger.warning("%s: these rows are left out", told)


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
    """Warn of patients that are one in the images' tags and several in the table, in different splits."""
    splits: dict[str, set[str]] = {}
    for series, row in known:
        if row.split:
            splits.setdefault(_patient(slices_of[series]), set()).add(row.split)
    twice = sum(len(names) > 1 for names in splits.values())
    if twice:
        logger.warning(
            "%s: %d patient(s) by the images' own identifiers are in two splits under different names in the table; "
            "the table is used as it is",
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
