"""Ingestion: from folders of clinical files to a slice store, one call.

    scan      every file is looked at once: header of an image, volume file, or a verdict
    group     images become series that can be stacked
    process   each series is decoded and written by itself, in one process or many
    finish    the index is compacted

A second run over the same input finds everything stored and adds nothing; a run that was interrupted goes on where it
stopped. Nothing about order, workers or interruptions shows in the finished store.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from medssl_monai.errors import InputError, NoImagesError
from medssl_monai.ingest.admission import Rules
from medssl_monai.ingest.archives import RefusedFile, SourceFile, unpacked
from medssl_monai.ingest.notes import SeriesNote
from medssl_monai.ingest.processing import Plan, process
from medssl_monai.ingest.pseudonyms import key_check, load_key, source_id
from medssl_monai.ingest.report import write_report
from medssl_monai.ingest.scan import find_files, look_at, plan_all
from medssl_monai.ingest.store import SliceStore
from medssl_monai.ingest.verdicts import Outcome, Reason, Verdict, merge_verdicts
from medssl_monai.ingest.writer import StoreWriter

__all__ = ["IngestSummary", "ingest"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class IngestSummary:
    """What a run found and did.

    Attributes:
        store: the finished store's folder.
        files: how many files were found.
        series: series of these files that are in the store.
        slices: slices of those series.
        added: series that this run wrote.
        skipped: series that were there already.
        verdicts: one a series and one a stray file; their `files` add up to `files`.
    """

    store: Path
    files: int
    series: int
    slices: int
    added: int
    skipped: int
    verdicts: tuple[Verdict, ...]

    def count(self, outcome: Outcome) -> int:
        """Files that ended in this way."""
        return sum(verdict.files for verdict in self.verdicts if verdict.outcome is outcome)

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected files by reason code, most frequent first."""
        counts: Counter[str] = Counter()
        for verdict in self.verdicts:
            if verdict.reason is not None:
                counts[verdict.reason.value] += verdict.files
        return dict(counts.most_common())

    def __str__(self) -> str:
        rejected = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return (
            f"{self.files} files: {self.series} series with {self.slices} slices in {self.store} "
            f"({self.added} added, {self.skipped} there already); "
            f"{self.count(Outcome.ACCEPTED)} files accepted, {self.count(Outcome.REPAIRED)} repaired, "
            f"{self.count(Outcome.REJECTED)} rejected" + (f" ({rejected})" if rejected else "")
        )


def ingest(
    sources: Sequence[Path],
    out: Path,
    *,
    key: bytes | None = None,
    modality: str | None = None,
    workers: int = 1,
    progress: bool = True,
    assume_hu: bool = False,
    report: bool = False,
) -> IngestSummary:
    """Reads every image in files and folders into a slice store.

    Args:
        sources: files, and folders with all that is in them; DICOM, NIfTI, NRRD, MetaImage, PNG and JPEG are told by
            content and name, archives are read as folders, whatever else is there ends in a verdict.
        out: the store; made, or added to.
        key: of the pseudonyms; None loads the user's own (see `pseudonyms.load_key`).
        modality: the one to take, such as CT; None takes every imaging modality. Volume files say nothing of theirs:
            they are CT if their values are HU, or whatever else is named here. Pictures are never CT.
        workers: processes; more than one needs the caller's main module to be importable, as spawned processes do.
        progress: whether to show bars on stderr.
        assume_hu: take CT without rescale tags, and volume files, for HU unseen.
        report: whether to write `report.html` into the store (see `report.write_report`).

    Raises:
        NoImagesError: nothing there could be stored; no store is left behind, and an existing one is unchanged.
        StoreError: `out` holds something else, or a store made with another key.
        InputError: a source does not exist.
    """
    key = load_key() if key is None else key
    out = Path(out)
    sources = [Path(source) for source in sources]
    for source in sources:
        if not source.exists():
            raise InputError(f"source {source}: does not exist; name a file or a folder")
    if workers < 1:
        raise InputError(f"workers: must be at least 1, found {workers}")
    writer = StoreWriter(out, key_check(key))
    rules = Rules(modality=modality, assume_hu=assume_hu)
    is_new = not out.exists()
    try:
        summary = _run(sources, writer, key, rules, workers, progress)
    except NoImagesError:
        if is_new:
            shutil.rmtree(out, ignore_errors=True)
        elif writer.series_folder.is_dir() and not any(writer.series_folder.iterdir()):
            writer.series_folder.rmdir()  # a folder that was there, but empty, is empty again
        raise
    if report:
        write_report(SliceStore(out))
    return summary


def _run(
    sources: Sequence[Path], writer: StoreWriter, key: bytes, rules: Rules, workers: int, progress: bool
) -> IngestSummary:
    drafts = writer.path / f".draft-{os.getpid()}-{secrets.token_hex(4)}"
    with unpacked(find_files(sources, writer.path), drafts) as (files, refused):
        return _run_files(sources, files, refused, writer, key, rules, workers, progress)


def _run_files(
    sources: Sequence[Path],
    files: Sequence[SourceFile],
    refused: Sequence[RefusedFile],
    writer: StoreWriter,
    key: bytes,
    rules: Rules,
    workers: int,
    progress: bool,
) -> IngestSummary:
    found = _map(partial(look_at, rules=rules), files, workers, "looking at files", progress, chunk=64)
    plans, verdicts = plan_all(found, key, rules)
    verdicts += [
        Verdict(Outcome.REJECTED, "file", source_id(key, one.path), reason=one.reason, detail=one.detail)
        for one in refused
    ]
    new, stored, partial_views, contradicting = _compare(plans, writer)
    verdicts += [*stored, *contradicting]
    work = partial(_process_one, writer=writer, key=key)
    written = _map(work, new, workers, "reading series", progress, chunk=1)
    verdicts += [verdict for group in written for verdict in group]
    taken = [verdict for verdict in [*verdicts, *partial_views] if verdict.outcome is not Outcome.REJECTED]
    if not taken:
        raise _nothing(sources, rules, len(files) + len(refused), verdicts)
    writer.finish(verdicts)
    verdicts += partial_views
    added = sum(verdict.outcome is not Outcome.REJECTED for group in written for verdict in group)
    return IngestSummary(
        store=writer.path,
        files=len(files) + len(refused),
        series=len(taken),
        slices=sum(verdict.slices for verdict in taken),
        added=added,
        skipped=len(taken) - added,
        verdicts=tuple(merge_verdicts([], verdicts)),
    )


@dataclass(frozen=True)
class _Job:
    """A series to write; `replaces` where an older version of it is stored."""

    plan: Plan
    replaces: bool


def _process_one(job: _Job, writer: StoreWriter, key: bytes) -> tuple[Verdict, ...]:
    return process(job.plan, writer, key, job.replaces)


def _compare(
    plans: Sequence[Plan], writer: StoreWriter
) -> tuple[list[_Job], list[Verdict], list[Verdict], list[Verdict]]:
    """Which series are to be written; and the verdicts on those that are stored already, on those of which more is
    stored than this run saw, and on those that contradict what is stored.

    A series that grew replaces what was stored of it, also where it is now split otherwise.
    """
    notes = writer.notes()
    relatives: dict[str, list[str]] = defaultdict(list)
    for series_id in notes:
        relatives[_base(series_id)].append(series_id)
    planned: dict[str, set[str]] = defaultdict(set)
    for plan in plans:
        planned[_base(plan.series_id)].update(plan.instance_ids)
    outgrown = {
        series_id
        for base, images in planned.items()
        for series_id in relatives[base]
        if images > set(notes[series_id].instances)
    }
    jobs, stored, partial_views, contradicting = [], [], [], []
    gone = outgrown - {plan.series_id for plan in plans}
    for plan in plans:
        images = set(plan.instance_ids)
        kin = [series_id for series_id in relatives[_base(plan.series_id)] if series_id not in gone]
        home = next((series_id for series_id in kin if images <= set(notes[series_id].instances)), None)
        if home is not None and images == set(notes[home].instances):
            stored += _stored_verdicts(notes[home], plan)
        elif home is not None:
            partial_views.append(replace(notes[home].verdicts[0], files=plan.files))
        elif all(series_id in outgrown for series_id in kin):
            jobs.append(_Job(plan, replaces=plan.series_id in notes))
        else:
            contradicting.append(_contradiction(plan))
    for series_id in sorted(gone):
        writer.remove(series_id)
    return jobs, stored, partial_views, contradicting


def _base(series_id: str) -> str:
    """What the ids of all parts of a split series share."""
    return series_id.partition("-")[0]


def _stored_verdicts(note: SeriesNote, plan: Plan) -> list[Verdict]:
    """The verdicts as they were, with this run's number of files."""
    series, *left_out = note.verdicts
    return [replace(series, files=plan.files - sum(verdict.files for verdict in left_out)), *left_out]


def _contradiction(plan: Plan) -> Verdict:
    return Verdict(
        Outcome.REJECTED,
        "series",
        plan.source_id,
        plan.series_id,
        plan.files,
        reason=Reason.STORED_OTHERWISE,
        detail="the store has other images of this series; ingest all folders of the series in one run",
    )


def _nothing(sources: Sequence[Path], rules: Rules, files: int, verdicts: Iterable[Verdict]) -> NoImagesError:
    wanted = f"{rules.modality} images" if rules.modality else "images"
    where = ", ".join(str(source) for source in sources) or "no source"
    reasons: Counter[str] = Counter()
    example: dict[str, str] = {}
    for verdict in verdicts:
        if verdict.reason is not None:
            reasons[verdict.reason.value] += verdict.files
            example.setdefault(verdict.reason.value, verdict.detail)
    why = "; ".join(f"{count} {reason}: {example[reason]}" for reason, count in reasons.most_common(3))
    return NoImagesError(
        f"{where}: no {wanted} that could be read among {files} files{f' ({why})' if why else ''}; "
        "name a folder with DICOM, NIfTI, NRRD or MetaImage files"
    )


def _map(work: Callable[[T], R], items: Sequence[T], workers: int, title: str, progress: bool, chunk: int) -> list[R]:
    """Results in the order of the items, from this process or from several."""
    with tqdm(total=len(items), desc=title, disable=not progress, leave=False) as bar:
        results: list[R] = []
        for result in _results(work, items, workers, chunk):
            results.append(result)
            bar.update()
    return results


def _results(work: Callable[[T], R], items: Sequence[T], workers: int, chunk: int) -> Iterator[R]:
    if workers == 1 or len(items) <= chunk:
        yield from map(work, items)
        return
    # Spawned, not forked: the caller may have threads (torch, blosc2), which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(items)), context, initializer=_leave_interrupts_to_the_parent)
    try:
        yield from pool.map(work, items, chunksize=chunk)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal: workers end the series they are at, and no more are given out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
