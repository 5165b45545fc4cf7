"""The files of a run, as text: `Path` objects, made when asked for, would take several times the memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["PathList", "SourceFile", "SourceFiles"]


class PathList(Sequence[Path]):
    """Paths in the order given."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = list(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: Any) -> Any:
        return PathList(self._paths[index]) if isinstance(index, slice) else Path(self._paths[index])


class SourceFile(NamedTuple):
    """A file to be read.

    Attributes:
        path: where it stands; for a member of an archive as if the archive were a folder.
        content: the file that holds its bytes.
    """

    path: Path
    content: Path


class SourceFiles(Sequence[SourceFile]):
    """Files to be read, in the order of adding."""

    def __init__(self, files: Iterable[SourceFile] = ()) -> None:
        self._files: list[str | tuple[str, str]] = []
        for file in files:
            self.add(file)

    def add(self, file: SourceFile) -> None:
        """One more."""
        path, content = str(file.path), str(file.content)
        self._files.append(path if path == content else (path, content))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return SourceFiles(self[i] for i in range(*index.indices(len(self))))
        one = self._files[index]
        if isinstance(one, str):
            path = Path(one)
            return SourceFile(path, path)
        return SourceFile(Path(one[0]), Path(one[1]))
