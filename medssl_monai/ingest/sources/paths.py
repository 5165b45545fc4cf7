"""The files of a run, kept on disk (see `DiskTable`), and what their names say of their format."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medssl_monai.errors import InputError

CACHE_KB = 512

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, ".mha", ".mhd")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


def source_path(source: str | Path) -> Path:
    """A source as a path.

    Raises:
        InputError: it is no path; or it is empty, as an unset variable of a shell is, which as a path would be the
            current folder.
    """
    if not isinstance(source, (str, Path)):
        raise InputError(f"source {source!r}: must be a path; name a file or a folder, as text or a pathlib.Path")
    if str(source) == "":
        raise InputError("source '': is empty, perhaps a variable that is not set; name a file or a folder")
    return Path(source)


def is_volume_file(path: Path) -> bool:
    """Whether the name is that of a volume format."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


def is_picture_file(path: Path) -> bool:
    """Whether the name is that of a picture."""
    return path.name.lower().endswith(PICTURE_SUFFIXES)


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES)


class PathList(Collection[Path]):
    """Files, sorted by the place they really are at, each once however many links lead to it.

    Args:
        paths: as they were met; of several to the same place, the first is kept.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._table = DiskTable("(place BLOB PRIMARY KEY, path BLOB) WITHOUT ROWID")
        self._table.add(_but_once(os.path.realpath(path), path) for path in paths)

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Path]:
        for (path,) in self._table.select("SELECT coalesce(path, place) FROM kept ORDER BY place"):
            yield Path(os.fsdecode(path))

    def __contains__(self, path: object) -> bool:
        return any(path == one for one in self)


class SourceFile(NamedTuple):
    """A file to be read.

    Attributes:
        path: where it stands; for a member of an archive as if the archive were a folder.
        content: the file that holds its bytes.
    """

    path: Path
    content: Path


class SourceFiles(Collection[SourceFile]):
    """Files to be read, in the order of adding."""

    def __init__(self) -> None:
        self._table = DiskTable("(path BLOB, content BLOB)")

    def add(self, file: SourceFile) -> None:
        """One more."""
        self._table.add([_but_once(file.path, file.content)])

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[SourceFile]:
        for path, content in self._table.select("SELECT path, coalesce(content, path) FROM kept ORDER BY rowid"):
            yield SourceFile(Path(os.fsdecode(path)), Path(os.fsdecode(content)))

    def __contains__(self, file: object) -> bool:
        return any(file == one for one in self)


def _but_once(first: str | Path, second: str | Path) -> tuple[bytes, bytes | None]:
    """Both names as bytes, the second only where it is another."""
    names = os.fsencode(first), os.fsencode(second)
    return names[0], None if names[0] == names[1] else names[1]


class DiskTable:
    """One table, `kept`, that lives as long as this object.

    Args:
        definition: what follows the table's name in SQL's CREATE TABLE.

    Raises:
        InputError: by any of the methods, where the disk refuses.
    """

    def __init__(self, definition: str) -> None:
        # Garbage may be collected in any thread. From 3.13 on, Python warns of a database that nobody closed.
        self._database = sqlite3.connect("", check_same_thread=False)
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"CREATE TABLE kept {definition}")
        width = len(self._database.execute("SELECT * FROM kept").description)
        self._insert = f"INSERT OR IGNORE INTO kept VALUES ({', '.join('?' * width)})"

    def __del__(self) -> None:
        if database := getattr(self, "_database", None):
            database.close()

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
