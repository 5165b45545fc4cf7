"""Whether a store is still what ingestion wrote: bits of a disk flip, and compressed values then change unnoticed."""

from __future__ import annotations

from pathlib import Path

from pyarrow import ArrowException

from medssl_monai.atomic import file_sha256
from medssl_monai.errors import StoreError
from medssl_monai.store.disk import exclusive
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.writer import StoreWriter, fingerprint


def damaged_series(store: SliceStore) -> dict[str, str]:
    """The series whose array is not the one that was written, each with what is wrong.

    All bytes are read once and compared with the SHA-256 in each series' note.

    Raises:
        StoreError: the index, or the list of series, is not the one that was written.
    """
    arrays: dict[str, str] = {}
    found: dict[str, str] = {}
    for part in sorted((store.path / "series").glob("*.parquet")):
        array = part.with_suffix(".b2nd")
        try:
            arrays[part.stem] = store.note(part.stem).array_sha256
        except (ArrowException, OSError, KeyError, ValueError) as error:
            found[part.stem] = f"its rows cannot be read ({type(error).__name__})"
            continue
        if not array.is_file():
            found[part.stem] = "its array is missing"
        elif file_sha256(array) != arrays[part.stem]:
            found[part.stem] = "its array holds other bytes than were written"
    if not found and fingerprint(store.path / "index.parquet", arrays) != store.fingerprint:
        raise StoreError(
            f"store {store.path}: its index, or the set of its series, is not what ingestion wrote; ingest the sources "
            "into a new folder"
        )
    return found


def remove_series(store: Path, series_ids: list[str]) -> None:
    """Takes series out; until their sources are ingested again, the store counts as unfinished."""
    with exclusive(store):
        writer = StoreWriter(store, SliceStore(store).description["key_check"])
        for series_id in series_ids:
            writer.remove(series_id)
