"""The names file: what the pseudonyms of a store stand for. It identifies patients and is never part of a store.

It is a CSV with the columns of `Name`, one row a series or file that ingestion met, readable by its owner alone.
"""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import NamedTuple

from medssl_monai.atomic import csv_text, write_private
from medssl_monai.errors import InputError

logger = logging.getLogger(__name__)


class Name(NamedTuple):
    """Where a series or a file came from.

    Attributes:
        series_id: pseudonym of the series; empty for a file that belongs to none.
        source_id: pseudonym of the path, as in the index and the verdicts.
        path: absolute, of the file or of the folder that holds the series; of a PACS the address of the series. A
            member of an archive stands at ``ARCHIVE/member``.
        series_uid: SeriesInstanceUID; empty where there is none.
    """

    series_id: str
    source_id: str
    path: str
    series_uid: str = ""


def read_names(file: Path) -> list[Name]:
    """The rows of a names file.

    Raises:
        InputError: the file cannot be read, or is no names file.
    """
    try:
        with file.open(encoding="utf-8", errors="surrogateescape", newline="") as opened:
            header, *rows = csv.reader(opened)
    except (OSError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is not a CSV with a header"
        raise InputError(
            f"names file {file}: cannot be read ({why}); name one that `medssl ingest --names` wrote"
        ) from error
    if tuple(header) != Name._fields or any(len(row) != len(header) for row in rows):
        raise InputError(
            f"names file {file}: must have the columns {', '.join(Name._fields)}, found {', '.join(header)[:100]}; "
            "name one that `medssl ingest --names` wrote"
        )
    return [Name(*row) for row in rows]


def paths_of(file: Path, pseudonyms: Collection[str]) -> dict[str, str]:
    """The path of each of these series, and of these files of no series, that a names file has.

    Raises:
        InputError: it has none of them; or see `read_names`.
    """
    rows = {row.series_id or row.source_id: row.path for row in read_names(file)}
    found = {one: rows[one] for one in pseudonyms if one in rows}
    if not found:
        raise InputError(
            f"names file {file}: has none of the {len(pseudonyms)} series and files; give the one that "
            "`medssl ingest --names` wrote with this store"
        )
    if missing := len(pseudonyms) - len(found):
        logger.warning("%s: has no row on %d of %d series and files", file, missing, len(pseudonyms))
    return found


def check_names_file(file: Path) -> None:
    """Refuse a path that `add_names` could not write to, before a long run.

    Raises:
        InputError: there is something else, or the folder cannot be made or written to.
    """
    if file.exists():
        read_names(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(file.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise InputError(f"names file {file}: its folder may not be written to; name a file in a folder of yours")


def add_names(file: Path, names: Iterable[Name]) -> list[Name]:
    """Write a names file, or add to one; a row on the same series, or the same file, replaces the older row.

    Args:
        file: is written atomically with mode 0600.
        names: the new rows.

    Returns:
        All rows, sorted.

    Raises:
        InputError: the file is there and is no names file.
    """
    rows = [*(read_names(file) if file.exists() else ()), *names]
    kept = sorted({(row.series_id or row.source_id): row for row in rows}.values())
    write_private(file, csv_text(Name._fields, kept).encode("utf-8", "surrogateescape"))
    return kept
