"""A slice store on object storage: its index is copied, its slices are fetched one by one.

The store is the folder that ingestion wrote, copied as it is. `medssl ingest` writes to a disk.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from medssl_monai.errors import StoreError
from medssl_monai.resources import user_cache
from medssl_monai.store.frames import HEAD_BYTES, read_frame, read_places, unpack
from medssl_monai.store.index_file import INDEX_NAME
from medssl_monai.store.objects import Objects
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import read_description
from medssl_monai.store.slice_cache import SliceCache, cache_limit

Used = TypeVar("Used")

_PLAIN_NAME = re.compile(r"\w[\w.-]*")


class RemoteStore(SliceStore):
    """A finished slice store at a URL that fsspec reads.

    On opening, ``store.json`` is read and the index is copied into ``stores_elsewhere`` in `user_cache`, once for each
    URL and content of the store; what is kept of one URL is never taken for another. A slice is one range request, two
    more when its series is first read. Compressed slices are kept on the local disk (`SliceCache`) up to
    ``MEDSSL_REMOTE_CACHE_GB``. The store must not be written while it is read.

    Example:
        >>> store = RemoteStore("s3://archive/thorax.store")      # doctest: +SKIP
        >>> rows = store.select([["modality", "==", "CT"]])       # doctest: +SKIP
        >>> store.read(rows[0]["series_id"], rows[0]["slice"])    # doctest: +SKIP

    Args:
        url: of the store's folder.
        open_arrays: series whose offsets one thread of one process remembers.

    Raises:
        StoreError: there is no store, it is unfinished, or has another schema version; or it cannot be reached.
        InputError: the cache cannot be written.
        ConfigError: ``MEDSSL_REMOTE_CACHE_GB`` is no number from 0 on.
    """

    def __init__(self, url: str, open_arrays: int = 128) -> None:
        self.url, self.objects, self.cache = url, Objects(url), SliceCache(cache_limit())
        try:
            described = self.objects.read("store.json")
        except FileNotFoundError as error:
            raise StoreError(
                f"store {url}: no slice store there (it has no store.json); copy the whole folder that `medssl ingest` "
                "wrote"
            ) from error
        read_description(described, url)
        folder = user_cache() / "stores_elsewhere" / hashlib.sha256(url.encode() + b"\n" + described).hexdigest()[:32]
        if not (folder / "store.json").is_file():
            self._copy(INDEX_NAME, folder)
            self._copy("store.json", folder)
        super().__init__(folder, open_arrays)

    @property
    def place(self) -> str:
        """The URL."""
        return self.url

    def _copy(self, name: str, folder: Path) -> None:
        try:
            self.objects.copy(name, folder / name)
        except FileNotFoundError as error:
            raise StoreError(
                f"store {self.url}: {name} is missing; copy the whole folder that `medssl ingest` wrote"
            ) from error

    def _file(self, name: str) -> Path:
        if not (self.path / name).is_file():
            self._copy(name, self.path)
        return self.path / name

    def _series_file(self, series_id: str, suffix: str) -> str:
        if not _PLAIN_NAME.fullmatch(series_id):
            raise StoreError(
                f"store {self.url}: the series {series_id!r} is no name that ingestion gives; ingest again"
            )
        return f"series/{series_id}{suffix}"

    def _open_array(self, series_id: str) -> RemoteArray:
        try:
            return RemoteArray(self, self._series_file(series_id, ".b2nd"))
        except FileNotFoundError as error:
            raise self._no_series(series_id) from error
        except ValueError as error:
            raise self._damaged(series_id) from error

    def _damaged(self, series_id: str) -> StoreError:
        return StoreError(
            f"store {self.url}: the array of series {series_id} is damaged, or holds more than slices; run "
            "`medssl verify` on the store that was copied there, and copy it once more"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "open_arrays": self.open_arrays, "path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        RemoteStore.__init__(self, state["url"], state["open_arrays"])
        if self.path != state["path"]:
            raise StoreError(f"store {self.url}: was written while it was read; run the same command again")


class RemoteArray:
    """A series of a `RemoteStore`.

    Args:
        store: whose it is.
        name: of its file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no array of slices.
        StoreError: it cannot be reached.
    """

    def __init__(self, store: RemoteStore, name: str) -> None:
        self._objects, self._cache, self._name = store.objects, store.cache, name
        self._key = f"{store.path.name}/{name}"
        frame = self._kept("head", 0, HEAD_BYTES, read_frame)
        self._places = self._kept(
            "offsets", frame.offsets_at, frame.frame_bytes, lambda content: read_places(frame, content)
        )
        self.shape: tuple[int, ...] = frame.shape

    def read(self, slice: int) -> NDArray[np.int16]:
        """One slice."""
        begin, end = self._places[slice].tolist()
        pixels = np.zeros(self.shape[1:], np.int16)
        if end > begin:
            try:
                self._kept(str(slice), begin, end, lambda content: unpack(content, pixels))
            except ValueError as error:
                raise RuntimeError(str(error)) from error
        return pixels

    def read_all(self) -> NDArray[np.int16]:
        """All slices."""
        return np.stack([self.read(number) for number in range(self.shape[0])])

    def _kept(self, what: str, begin: int, end: int, use: Callable[[bytes], Used]) -> Used:
        """What becomes of bytes of the file; they come from the local disk, or else from the server and are kept."""
        key = f"{self._key}/{what}"
        content = self._cache.get(key)
        if content is not None:
            with suppress(ValueError):  # the copy is damaged, and the file perhaps is not
                return use(content)
        content = self._objects.read(self._name, begin, end)
        used = use(content)
        self._cache.put(key, content)
        return used
