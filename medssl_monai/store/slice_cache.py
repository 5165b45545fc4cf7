"""Compressed slices of stores on object storage, kept on the local disk up to a limit."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from medssl_monai.atomic import write_bytes
from medssl_monai.errors import ConfigError
from medssl_monai.resources import user_cache

LIMIT_VARIABLE = "MEDSSL_REMOTE_CACHE_GB"
DEFAULT_GB = 10.0
_KEPT_SHARE, _LOOK_SHARE = 0.9, 0.02


def cache_limit() -> int:
    """The limit in bytes: ``MEDSSL_REMOTE_CACHE_GB``, else 10 GB; 0 keeps nothing.

    Raises:
        ConfigError: it is no number from 0 on.
    """
    given = os.environ.get(LIMIT_VARIABLE, str(DEFAULT_GB))
    try:
        limit = float(given) * 1e9
    except ValueError:
        limit = -1.0
    if not 0 <= limit < float("inf"):
        raise ConfigError(
            f"{LIMIT_VARIABLE}: must be a number of gigabytes from 0 on, found {given!r}; give {DEFAULT_GB:g}"
        )
    return int(limit)


class SliceCache:
    """Small files by name; those that were not used for longest go first.

    The limit holds for all stores and processes of a user together. Each process looks when it has added 2 % of it, so
    that it may be exceeded by as much for each.

    Args:
        limit: bytes; 0 keeps nothing.
        folder: by default ``slices`` in `user_cache`.
    """

    def __init__(self, limit: int, folder: Path | None = None) -> None:
        self.limit, self.folder = limit, folder or user_cache() / "slices"
        self._added = 0

    def get(self, name: str) -> bytes | None:
        """What is kept under a name, or None."""
        if not self.limit:
            return None
        file = self._file(name)
        try:
            content = file.read_bytes()
            os.utime(file)
        except OSError:  # not there, or another process removes it
            return None
        return content

    def put(self, name: str, content: bytes) -> None:
        """Keep it, unless the disk refuses."""
        if not self.limit or len(content) > self.limit:
            return
        with suppress(OSError):
            write_bytes(self._file(name), content)
        self._added += len(content)
        if self._added >= _LOOK_SHARE * self.limit:
            self._added = 0
            self._tidy()

    def _file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / digest[:2] / digest[2:34]

    def _tidy(self) -> None:
        found: list[tuple[float, int, str]] = []
        with suppress(OSError):
            for part in self.folder.iterdir():
                with suppress(OSError), os.scandir(part) as entries:
                    for entry in entries:
                        with suppress(OSError):
                            known = entry.stat()
                            found.append((known.st_mtime, known.st_size, entry.path))
        size = sum(each for _, each, _ in found)
        if size <= self.limit:
            return
        for _, each, path in sorted(found):
            with suppress(OSError):
                Path(path).unlink()
            size -= each
            if size <= _KEPT_SHARE * self.limit:
                break
