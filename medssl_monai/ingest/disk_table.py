"""What a run remembers of each file, on disk rather than in memory, so that an archive of millions fits.

It is a private SQLite database in the folder for temporary files (TMPDIR, or /var/tmp). The database
has no name there, and the system takes it back when the process ends, however it ends.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from medssl_monai.errors import InputError

__all__ = ["DiskTable"]

CACHE_KB = 512


class DiskTable:
    """One table, `kept`, that lives as long as this object.

    Args:
        definition: what follows the table's name in SQL's CREATE TABLE.

    Raises:
        InputError: by any of the methods, where the disk refuses.
    """

    def __init__(self, definition: str) -> None:
        self._database = sqlite3.connect("")
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"CREATE TABLE kept {definition}")
        width = len(self._database.execute("SELECT * FROM kept").description)
        self._insert = f"INSERT OR IGNORE INTO kept VALUES ({', '.join('?' * width)})"

    def __len__(self) -> int:
        return int(next(self.select("SELECT count(*) FROM kept"))[0])

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """More rows; those whose key is there already are left out."""
        try:
            self._database.executemany(self._insert, rows)
        except sqlite3.Error as error:
            raise _refused(error) from error

    def select(self, query: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one after another."""
        try:
            yield from self._database.execute(query, values)
        except sqlite3.Error as error:
            raise _refused(error) from error


def _refused(error: sqlite3.Error) -> InputError:
    return InputError(
        f"the list of files cannot be kept on disk ({error}); free space in the folder for temporary files, "
        "/var/tmp unless the environment variable TMPDIR names another"
    )
