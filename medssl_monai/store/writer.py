"""Makes slice stores: each series appears whole or not at all, and the finished store is byte-identical however made.

A series is written beside the store's content and renamed into place, the array first and its parquet part after it:
the part says that the series is there. So several processes may write and others read meanwhile, and a run that was
killed leaves whole series, which the next run keeps, and drafts, which it removes. A series that replaces an older
version lies beside it as a whole first, so that `recover` can finish what a kill interrupted: rows never speak of
another version's array, and neither version is lost. `finish` compacts the parts.
"""

from __future__ import annotations

import dataclasses
import filecmp
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from medssl_monai.atomic import file_sha256
from medssl_monai.errors import StoreError
from medssl_monai.store.disk import LOCK_NAME
from medssl_monai.store.records import SeriesHeader, SeriesNote, SliceRecord, read_note
from medssl_monai.store.schema import SCHEMA_VERSION, describe
from medssl_monai.store.series_files import write_array, write_index, write_part
from medssl_monai.store.verdicts import Outcome, Verdict, merge_verdicts, read_verdicts, write_verdicts

SUFFIXES = (".b2nd", ".parquet")
"""Of a series' array and its part, in the order in which they take their place."""

NEWER = ".newer"
"""Ends the names of both while they lie beside an older version."""


class StoreWriter:
    """Writes series into a store, new or existing. It is cheap to make and may be pickled to other processes.

    Args:
        path: the store's folder; made with the first series.
        key_check: tells the key that made the pseudonyms, see `pseudonyms.key_check`.

    Raises:
        StoreError: the folder holds something else, or a store made with another key or schema version.
    """

    def __init__(self, path: Path, key_check: str) -> None:
        self.path, self.key_check = path, key_check
        _refuse_foreign(path, key_check)

    @property
    def series_folder(self) -> Path:
        """Where arrays and parts lie."""
        return self.path / "series"

    def series_ids(self) -> list[str]:
        """All whole series, sorted."""
        return sorted(part.stem for part in self.series_folder.glob("*.parquet"))

    def note(self, series_id: str) -> SeriesNote:
        """The note of a whole series.

        Raises:
            StoreError: the part was made with another key or schema version.
        """
        note = read_note(self.series_folder / f"{series_id}.parquet")
        if note.key_check != self.key_check:
            raise _other_key(self.path)
        return note

    def notes(self) -> dict[str, SeriesNote]:
        """The notes of all whole series, by series id, sorted."""
        return {series_id: self.note(series_id) for series_id in self.series_ids()}

    def write(
        self,
        header: SeriesHeader,
        slices: Iterable[SliceRecord],
        note: Callable[[frozenset[str]], SeriesNote],
        *,
        replace: bool = False,
    ) -> SeriesNote:
        """Writes one series, replacing one of the same id.

        Exceptions from `slices` pass through, and leave nothing behind.

        Args:
            header: shape and shared columns.
            slices: as many as `header.shape` says, in order.
            note: gives what to remember, once the flags of all slices are known; `array_sha256` is filled in here.
            replace: whether an older version is in the index, which is then no longer true.
        """
        self.series_folder.mkdir(parents=True, exist_ok=True)
        with self._draft_folder() as drafts:
            array, part = drafts / "array.b2nd", drafts / "part.parquet"
            rows, flags = write_array(array, header, slices)
            whole = dataclasses.replace(note(flags), array_sha256=file_sha256(array))
            write_part(part, rows, whole)
            beside = NEWER if replace else ""
            if replace:
                self._reopen()
            for draft, suffix in zip((array, part), SUFFIXES, strict=True):
                draft.replace(self.series_folder / f"{header.series_id}{suffix}{beside}")
            if replace:
                self._take_place(header.series_id)
        return whole

    def remove(self, series_id: str) -> None:
        """Takes a series out."""
        self._reopen()
        for suffix in reversed(SUFFIXES):
            (self.series_folder / f"{series_id}{suffix}").unlink(missing_ok=True)

    def recover(self) -> None:
        """Removes the drafts of killed runs, and finishes replacements that they began; for who holds the lock.

        Drafts hold what archives and a PACS gave, with all that identifies patients.
        """
        for draft in self.path.glob(".draft-*"):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)  # of a report
        for part in self.series_folder.glob(f"*{SUFFIXES[1]}{NEWER}"):
            self._take_place(part.name.partition(".")[0])
        for array in self.series_folder.glob(f"*{SUFFIXES[0]}{NEWER}"):
            array.unlink()  # its part never came: the older version stays

    def _take_place(self, series_id: str) -> None:
        """The newer version takes the place of the older one; what did so before a kill is not there any more."""
        for suffix in SUFFIXES:
            newer = self.series_folder / f"{series_id}{suffix}{NEWER}"
            if newer.exists():
                newer.replace(newer.with_suffix(""))

    def finish(self, verdicts: Iterable[Verdict], alone: bool = False) -> None:
        """Compacts the parts into the index, merges the verdicts, and declares the store finished.

        A series that is in the store is not said to be rejected because a later run wanted something else.

        Args:
            verdicts: of the run.
            alone: whether they are kept without those of earlier runs.

        Raises:
            StoreError: a part was made with another key.
        """
        self.recover()
        # Of a store of any size, one series is held at a time, and what verdicts and fingerprint need.
        notes: dict[str, tuple[tuple[Verdict, ...], str]] = {}
        for name in self.series_ids():
            note = self.note(name)
            notes[name] = note.verdicts, note.array_sha256
        for array in self.series_folder.glob("*.b2nd"):
            if array.stem not in notes:
                array.unlink()  # of a killed run
        # Parts speak for series of runs that never finished; they do not know of a series' images that were refused.
        unfinished = (verdict for of_series, _ in notes.values() for verdict in of_series)
        earlier = [] if alone else merge_verdicts(unfinished, read_verdicts(self.path / "verdicts.jsonl"))
        verdicts = list(verdicts)
        taken = {verdict.subject for verdict in verdicts if verdict.outcome is not Outcome.REJECTED}
        news = [verdict for verdict in verdicts if verdict.subject in taken or verdict.subject not in notes]
        merged = [
            verdict
            for verdict in merge_verdicts(earlier, news)
            if verdict.outcome is Outcome.REJECTED or verdict.series_id in notes
        ]
        with self._draft_folder() as drafts:
            slices = write_index(drafts / "index.parquet", [self.series_folder / f"{name}.parquet" for name in notes])
            write_verdicts(drafts / "verdicts.jsonl", merged)
            description = {
                "format": "medssl-monai slice store",
                "schema_version": SCHEMA_VERSION,
                "series": len(notes),
                "slices": slices,
                "fingerprint": fingerprint(drafts / "index.parquet", {name: sha for name, (_, sha) in notes.items()}),
                "key_check": self.key_check,
            }
            (drafts / "store.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
            names = ("index.parquet", "verdicts.jsonl", "store.json")
            if all(_same_bytes(drafts / name, self.path / name) for name in names):
                return
            self._reopen()
            for name in names:
                (drafts / name).replace(self.path / name)

    def _reopen(self) -> None:
        """The index no longer tells the truth, nor does a report: until `finish`, the store counts as unfinished."""
        for name in ("store.json", "report.html"):
            (self.path / name).unlink(missing_ok=True)

    @contextmanager
    def _draft_folder(self) -> Iterator[Path]:
        drafts = self.path / f".draft-{os.getpid()}-{secrets.token_hex(4)}"
        drafts.mkdir(parents=True)
        try:
            yield drafts
        finally:
            shutil.rmtree(drafts, ignore_errors=True)


def fingerprint(index: Path, arrays: Mapping[str, str]) -> str:
    """SHA-256 (hex) over an index and the digests of all arrays, by series id, sorted."""
    digest = hashlib.sha256()
    with index.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    for series_id, sha256 in arrays.items():
        digest.update(f"{series_id}\0{sha256}\n".encode())
    return digest.hexdigest()


def _same_bytes(first: Path, second: Path) -> bool:
    return second.is_file() and filecmp.cmp(first, second, shallow=False)


def _refuse_foreign(path: Path, key_check: str) -> None:
    if path.exists() and not path.is_dir():
        raise StoreError(f"store {path}: is a file; name a new folder")
    described = path / "store.json"
    if described.is_file():
        if describe(path).get("key_check") != key_check:
            raise _other_key(path)
    elif path.is_dir() and not (path / "series").is_dir() and any(map(_is_foreign, path.iterdir())):
        raise StoreError(f"store {path}: the folder is neither empty nor a slice store; name a new folder")


def _is_foreign(path: Path) -> bool:
    """Whether something in a folder is no trace of a run that has written no series yet."""
    return path.name != LOCK_NAME and not path.name.startswith(".draft-")


def _other_key(path: Path) -> StoreError:
    return StoreError(
        f"store {path}: its pseudonyms were made with another key, so that patients could not be told apart; "
        "give that key (`--key FILE` or MEDSSL_KEY), or ingest into a new folder"
    )
