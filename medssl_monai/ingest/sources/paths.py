"""The files of a run, kept on disk (see `disk_table`)."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from medssl_monai.ingest.disk_table import DiskTable

__all__ = ["PathList", "SourceFile", "SourceFiles"]


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
