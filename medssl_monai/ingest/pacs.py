"""A PACS as a source: its series are fetched some at a time, and those that a store has as a whole are left out."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from medssl_monai.ingest.compare import stored_verdicts, uid_part
from medssl_monai.ingest.dicom.tags import quiet
from medssl_monai.ingest.sources.dicomweb import PacsSeries, PacsSource, not_retrieved
from medssl_monai.ingest.sources.paths import SourceFile
from medssl_monai.store.pseudonyms import pseudonym
from medssl_monai.store.records import SeriesNote
from medssl_monai.store.verdicts import RejectedError, Verdict

PACS_BATCH = 1000
"""Images fetched before they are read: so many lie in a private folder of the store at a time, if series allow."""

CONNECTIONS = 4
"""Series fetched at once."""


class Batch(NamedTuple):
    """Files to read, which are there until the next batch is asked for; or verdicts on series that are not fetched."""

    files: Sequence[SourceFile] = ()
    verdicts: Sequence[Verdict] = ()


def fetch_batches(
    source: PacsSource,
    folder: Path,
    notes: Mapping[str, SeriesNote],
    key: bytes,
    listed: Callable[[PacsSeries], object] | None = None,
) -> Iterator[Batch]:
    """All series that match, in batches.

    Args:
        source: the PACS and what is wanted of it.
        folder: where files lie meanwhile; made, and removed at the end.
        notes: of the store, by series id.
        key: of the pseudonyms.
        listed: called with each series that matches, also with those that are not fetched.
    """
    known: dict[str, list[SeriesNote]] = defaultdict(list)
    for series_id, note in notes.items():
        known[uid_part(series_id)].append(note)
    stored: list[Verdict] = []

    def wanted() -> Iterator[tuple[PacsSeries, Path]]:
        for number, series in enumerate(source.series()):
            if listed is not None:
                listed(series)
            series_id = pseudonym(key, "series", series.series_uid)
            verdicts = _stored_already(series, known[series_id], key)
            if verdicts is None:
                yield series, folder / str(number)
            else:
                stored.extend(verdicts)

    fetched: list[tuple[Path, list[SourceFile]]] = []

    def batch() -> Batch:
        return Batch([file for _, files in fetched for file in files])

    def forget() -> None:
        for place, _ in fetched:
            shutil.rmtree(place, ignore_errors=True)
        fetched.clear()

    with closing(fetch_ahead(source, wanted())) as ahead:
        for series, place, found in ahead:
            if isinstance(found, RejectedError):
                yield Batch(verdicts=[not_retrieved(series, source, found, key)])
                continue
            fetched.append((place, found))
            if sum(len(files) for _, files in fetched) >= PACS_BATCH:
                yield batch()
                forget()
    yield batch()
    yield Batch(verdicts=stored)
    shutil.rmtree(folder, ignore_errors=True)


def fetch_ahead(
    source: PacsSource, wanted: Iterable[tuple[PacsSeries, Path]]
) -> Generator[tuple[PacsSeries, Path, list[SourceFile] | RejectedError], None, None]:
    """Retrieves series into their folders, `CONNECTIONS` at once; gives each, in order, with its files or why not.

    No more are asked for than that until the first of them is taken, so that what waits on the disk is bounded.
    """
    waiting: deque[tuple[PacsSeries, Path, Future[list[SourceFile]]]] = deque()

    def first() -> tuple[PacsSeries, Path, list[SourceFile] | RejectedError]:
        series, folder, future = waiting.popleft()
        try:
            return series, folder, future.result()
        except RejectedError as rejection:
            return series, folder, rejection

    # Quiet as a whole: what silences a library is the process's, and must not come and go while threads use it.
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        with quiet():
            for series, folder in wanted:
                waiting.append((series, folder, pool.submit(source.retrieve, series, folder)))
                if len(waiting) == CONNECTIONS:
                    yield first()
            while waiting:
                yield first()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _stored_already(series: PacsSeries, notes: Sequence[SeriesNote], key: bytes) -> list[Verdict] | None:
    """The verdicts on a series all of whose images are stored; None where some are not, or may not be."""
    if series.unlisted:
        return None
    files: Counter[int] = Counter()
    for uid in series.instance_uids:
        names = {pseudonym(key, "instance", name) for name in (uid, f"{uid} frame 0")}
        home = next((i for i, note in enumerate(notes) if names & set(note.instances)), None)
        if home is None:
            return None
        files[home] += 1
    return [one for i, count in sorted(files.items()) for one in stored_verdicts(notes[i], count)]
