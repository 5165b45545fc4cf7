"""Finds the series of a store that a name stands for: a series id, a SeriesInstanceUID, or a path."""

import re
from collections.abc import Collection
from pathlib import Path

from medssl_monai.errors import LabelError, StoreError
from medssl_monai.ingest.dicom.header import HEAD_BYTES, read_frames, sniff_dicom
from medssl_monai.ingest.dicom.plan import series_uid
from medssl_monai.ingest.scan import find_files
from medssl_monai.ingest.sources.paths import is_picture_file, is_volume_file
from medssl_monai.ingest.volumes.digest import file_digest
from medssl_monai.ingest.volumes.plan import volume_series_id
from medssl_monai.store.pseudonyms import key_check, load_key, pseudonym, source_id
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.verdicts import RejectedError


class MissingSourceError(LabelError):
    """A source is not in the store."""


def find_series(store: SliceStore, source: str | Path, key: bytes | None = None) -> str:
    """The series id that a series id, a SeriesInstanceUID, or the path of a file or folder stands for.

    Args:
        store: the store to look in.
        source: any of these.
        key: that of the store; None loads the user's own (see `pseudonyms.load_key`).

    Raises:
        MissingSourceError: the source is not in the store.
        LabelError: it stands for several series.
        StoreError: the store was made with another key.
    """
    if str(source) in store.series_ids:
        return str(source)
    candidates = all_series(store, source, key)
    if len(candidates) == 1:
        return candidates.pop()
    if not candidates:
        raise MissingSourceError(f"source {source}: is not in store {store.place}; ingest it, or correct the name")
    raise LabelError(
        f"source {source}: stands for {len(candidates)} series of store {store.place} "
        f"({', '.join(sorted(candidates)[:5])}); name one of these ids, a SeriesInstanceUID or a single file"
    )


def all_series(
    store: SliceStore, source: str | Path, key: bytes | None = None, known: Collection[str] | None = None
) -> set[str]:
    """The ids of all series that a SeriesInstanceUID, or the path of a file or folder, stands for.

    Args:
        store: the store to look in.
        source: a UID or a path.
        key: as of `find_series`.
        known: the series ids to choose from; None takes those that the store holds.

    Raises:
        MissingSourceError: the source is neither a UID nor a path that exists or was ingested.
        StoreError: the store was made with another key.
    """
    known = set(store.series_ids) if known is None else set(known)
    key = load_key() if key is None else key
    if key_check(key) != store.description["key_check"]:
        raise StoreError(
            f"store {store.place}: {source!s} cannot be looked up, because its pseudonyms were made with another key; "
            "give that key (`--key FILE` or MEDSSL_KEY), or name a series id"
        )
    path = Path(source)
    # Members of archives have paths that exist only in the store.
    if path.exists() or source_id(key, path) in store.series_by_source:
        return _by_path(store, path, key, known)
    if re.fullmatch(r"[0-9.]+", str(source)):
        return _by_uid(str(source), key, known)
    raise MissingSourceError(
        f"source {source}: is neither a path that exists, nor a SeriesInstanceUID, nor a series of store "
        f"{store.place}; correct the name (a relative path starts at the current folder)"
    )


def _by_uid(uid: str, key: bytes, known: set[str]) -> set[str]:
    base = pseudonym(key, "series", uid)
    return {series_id for series_id in known if series_id.partition("-")[0] == base}


def _by_path(store: SliceStore, path: Path, key: bytes, known: set[str]) -> set[str]:
    """By the paths as ingested, of all series that lie there as a whole; else, for what was moved, by content."""
    candidates = set(store.series_by_source.get(source_id(key, path), ()))
    if not path.is_dir():
        return candidates or (_by_file(store, path, key, known) if path.exists() else set())
    files = find_files([path])
    folders = {file.parent for file in files}
    inside = {place for folder in folders for place in (folder, *folder.parents) if path in place.parents}
    for place in (*files, *inside):
        candidates |= store.series_by_source.get(source_id(key, place), set())
    return candidates or {found for file in files for found in _by_file(store, file, key, known)}


def _by_file(store: SliceStore, file: Path, key: bytes, known: set[str]) -> set[str]:
    try:
        if is_volume_file(file) or is_picture_file(file):
            return {volume_series_id(key, file_digest(file))} & known
        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
        if not sniff_dicom(head):
            return set()
        instances = read_frames(file, head=head)
    except (OSError, RejectedError):
        return set()
    candidates = _by_uid(series_uid(instances[0]), key, known)
    if len(candidates) < 2:
        return candidates
    images = {pseudonym(key, "instance", instance.identity) for instance in instances}
    return {series_id for series_id in candidates if images & set(store.note(series_id).instances)}
