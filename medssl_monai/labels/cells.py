"""Reads the cells of a label table, CSV or JSON, and checks its headings."""

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medssl_monai.errors import LabelError

COLUMNS = ("source", "slice", "label", "patient", "split")


def read_cells(path: Path) -> list[dict[Any, Any]]:
    """The rows of the file, one dictionary each, with headings stripped of spaces.

    Cells beyond the heading of a CSV file have the key None.

    Raises:
        LabelError: the file is not readable, or one of `COLUMNS` is written with other capitals or more than once. Such
            a column would otherwise be ignored, which changes what the table means.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        hint = ", or give --config finetune_folders for pictures in folders named by class" if path.is_dir() else ""
        raise LabelError(f"{path}: the label table cannot be read ({reason}); name a CSV or JSON file{hint}") from error
    return _json_cells(path, text) if path.suffix.lower() == ".json" else _csv_cells(path, text)


def _csv_cells(path: Path, text: str) -> list[dict[Any, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="", skipinitialspace=True)
        reader.fieldnames = _headings(f"{path}, heading", reader.fieldnames or ())
        return list(reader)
    except csv.Error as error:
        raise LabelError(f"{path}: not readable as CSV ({error}); correct it") from error


def _json_cells(path: Path, text: str) -> list[dict[Any, Any]]:
    try:
        content = json.loads(text, object_pairs_hook=_Pairs, parse_constant=_finite, parse_float=_finite)
    except ValueError as error:
        raise LabelError(f"{path}: not readable as JSON ({error}); correct it or use CSV") from error
    if (
        not isinstance(content, list)
        or isinstance(content, _Pairs)
        or not all(isinstance(row, _Pairs) for row in content)
    ):
        raise LabelError(f"{path}: a JSON label table must be a list of objects, found something else; correct it")
    rows = []
    for number, pairs in enumerate(content, start=1):
        names = _headings(f"{path}, row {number}", [name for name, _ in pairs])
        values = (dict(value) if isinstance(value, _Pairs) else value for _, value in pairs)
        rows.append(dict(zip(names, values, strict=True)))
    return rows


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with repeated keys, of which a dictionary would keep only the last."""


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is not a finite number; write null for a missing value")
    return number


def _headings(where: str, names: Iterable[str]) -> list[str]:
    found = [name.strip() for name in names]
    for name in found:
        meant = name.casefold()
        if meant in COLUMNS and name != meant:
            raise LabelError(f"{where}: the column {name!r} must be written {meant!r}; rename it")
        if name in COLUMNS and found.count(name) > 1:
            raise LabelError(f"{where}: the column {name!r} appears {found.count(name)} times; keep one")
    return found
