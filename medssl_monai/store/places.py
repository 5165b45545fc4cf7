"""Opens the store at a place, which is a folder or a URL."""

from __future__ import annotations

from pathlib import Path

from medssl_monai.store.reader import SliceStore
from medssl_monai.store.remote import RemoteStore
from medssl_monai.store.urls import remote_url


def store_at(place: SliceStore | str | Path) -> SliceStore:
    """The store in a folder, or at a URL that fsspec reads (`RemoteStore`).

    Raises:
        StoreError: there is none, it is unfinished, or has another schema version; or it cannot be reached.
    """
    if isinstance(place, SliceStore):
        return place
    url = remote_url(place)
    return SliceStore(place) if url is None else RemoteStore(url)


def is_store(place: str | Path) -> bool:
    """Whether a folder is a store, finished or not; a URL can be nothing else."""
    path = Path(place)
    return remote_url(place) is not None or (path / "store.json").exists() or (path / "series").is_dir()
