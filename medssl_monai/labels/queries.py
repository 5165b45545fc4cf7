"""Queries of a store's index as sources of a label table: ``query: body_part == CHEST and slice < 20``."""

import re
from typing import Any

import pyarrow as pa

from medssl_monai.errors import LabelError
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import COLUMNS

PREFIX = "query:"
QUERIED = [name for name in COLUMNS if name != "affine"]
TERM = re.compile(r"(\w+)\s*(==|!=|<=|>=|<|>)\s*(.+)")


def is_query(source: str) -> bool:
    """Whether a source is a query rather than a path or an identifier."""
    return source.startswith(PREFIX)


def check_query(source: str, where: str) -> None:
    """Raise LabelError, with ``where`` first, unless the query is terms ``COLUMN OPERATOR VALUE`` joined by ``and``."""
    try:
        _filters(source)
    except LabelError as error:
        raise LabelError(f"{where}: {error}") from error


def select_slices(store: SliceStore, source: str) -> list[dict[str, Any]]:
    """Rows of the index that match a query.

    Raises:
        LabelError: the text is not a query, or names a column that the index does not have.
    """
    return store.select(_filters(source))


def _filters(source: str) -> list[Any]:
    terms = []
    for text in re.split(r"\s+and\s+", source.removeprefix(PREFIX).strip()):
        match = TERM.fullmatch(text.strip())
        if match is None or match[1] not in QUERIED:
            raise LabelError(
                f"the query's term {text!r} must be COLUMN OPERATOR VALUE, with a column of the store's index "
                f"({', '.join(QUERIED)}) and one of == != < <= > >=; correct it"
            )
        terms.append([match[1], match[2], _value(match[1], match[3].strip())])
    return terms


def _value(column: str, text: str) -> Any:
    """The value in the column's type; a text may be quoted."""
    kind = COLUMNS[column][0]
    if pa.types.is_string(kind):
        return text.strip("\"'")
    try:
        return int(text) if pa.types.is_integer(kind) else float(text)
    except ValueError as error:
        raise LabelError(f"the query's column {column} holds numbers, found {text!r}; correct it") from error
