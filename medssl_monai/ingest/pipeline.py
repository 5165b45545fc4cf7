"""Ingestion: from folders of clinical files to a slice store, one call.

    scan      every file is looked at once: header of an image, volume file, or a verdict
    group     images become series that can be stacked
    process   each series is decoded and written by itself, in one process or many
    finish    the index is compacted

A second run over the same input finds everything stored and adds nothing; a run that was interrupted goes on where it
stopped. Nothing about order, workers or interruptions shows in the finished store.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from medssl_monai.errors import InputError, NoImagesError
from medssl_monai.ingest.admission import Rules
from medssl_monai.ingest.archives import RefusedFile, SourceFile, unpacked
from medssl_monai.ingest.dicomweb import PacsSeries, PacsSource, fetch_ahead, not_retrieved
from medssl_monai.ingest.exclusive import exclusive
from medssl_monai.ingest.notes import SeriesNote
from medssl_monai.ingest.processing import Plan, needs_decoder, process
from medssl_monai.ingest.pseudonyms import key_check, load_key, pseudonym, source_id
from medssl_monai.ingest.report import write_report
from medssl_monai.ingest.scan import Sharing, find_files, look_at, plan_all
from medssl_monai.ingest.store import SliceStore
from medssl_monai.ingest.summary import IngestSummary
from medssl_monai.ingest.verdicts import Outcome, Reason, RejectedError, Verdict, merge_verdicts
from medssl_monai.ingest.workers import Workers
from medssl_monai.ingest.writer import StoreWriter

__all__ = ["IngestSummary", "ingest"]

PACS_BATCH = 1000
"""Images fetched before they are read: so many lie in a private folder of the store at a time, if series allow."""


def ingest(
    sources: Sequence[Path | PacsSource],
    out: Path,
    *,
    key: bytes | None = None,
    modality: str | None = None,
    workers: int = 1,
    progress: bool = True,
    assume_hu: bool = False,
    report: bool = False,
    scheduler: str | None = None,
) -> IngestSummary:
    """Reads every image in files and folders into a slice store.

    Args:
        sources: files, and folders with all that is in them; DICOM, NIfTI, NRRD, MetaImage, PNG and JPEG are told by
            content and name, archives are read as folders, whatever else is there ends in a verdict. Or a PACS.
        out: the store; made, or added to.
        key: of the pseudonyms; None loads the user's own (see `pseudonyms.load_key`).
        modality: the one to take, such as CT; None takes every imaging modality. Volume files say nothing of theirs:
            they are CT if their values are HU, or whatever else is named here. Pictures are never CT.
        workers: processes; more than one needs the caller's main module to be importable, as spawned processes do.
        progress: whether to show bars on stderr.
        assume_hu: take CT without rescale tags, and volume files, for HU unseen.
        report: whether to write `report.html` into the store (see `report.write_report`).
        scheduler: address of a Dask scheduler whose workers are used instead of processes (see `workers.Workers`).

    Raises:
        NoImagesError: nothing there could be stored; no store is left behind, and an existing one is unchanged.
        StoreError: `out` holds something else, a store made with another key, or another run writes into it.
        InputError: a source does not exist; a PACS or the scheduler does not answer.
    """
    key = load_key() if key is None else key
    out = Path(out)
    sources = [source if isinstance(source, PacsSource) else Path(source) for source in sources]
    for source in sources:
        if isinstance(source, Path) and not source.exists():
            raise InputError(f"source {source}: does not exist; name a file or a folder")
    if workers < 1:
        raise InputError(f"workers: must be at least 1, found {workers}")
    is_new = not out.exists()
    writer = StoreWriter(out, key_check(key))
    rules = Rules(modality=modality, assume_hu=assume_hu)
    with exclusive(out):
        try:
            with Workers(workers, scheduler, progress) as hands:
                summary = _read_all(_Run(writer, key, rules, hands), sources)
        except NoImagesError:
            if is_new:
                shutil.rmtree(out, ignore_errors=True)
            elif writer.series_folder.is_dir() and not any(writer.series_folder.iterdir()):
                writer.series_folder.rmdir()  # a folder that was there, but empty, is empty again
            raise
        if report:
            write_report(SliceStore(out))
    return summary


@dataclass
class _Run:
    """A run on its way: what it was told, and what it has met."""

    writer: StoreWriter
    key: bytes
    rules: Rules
    workers: Workers
    files: int = 0
    added: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    partial_views: list[Verdict] = field(default_factory=list)

    def take(self, files: Sequence[SourceFile], refused: Sequence[RefusedFile] = ()) -> None:
        """Reads files into the store."""
        self.files += len(files) + len(refused)
        look = partial(look_at, rules=self.rules)
        found = self.workers.map(look, files, "looking at files", chunk=64, keep=Sharing(files))
        plans, verdicts = plan_all(found, self.key, self.rules)
        del found  # the plans hold what is taken
        verdicts += [
            Verdict(Outcome.REJECTED, "file", source_id(self.key, one.path), reason=one.reason, detail=one.detail)
            for one in refused
        ]
        new, stored, partial_views, contradicting = _compare(plans, self.writer)
        work = partial(_process_one, writer=self.writer, key=self.key)
        new.sort(key=lambda job: -job.plan.files)  # the longest first, so that none is left for the end
        parts = [new]
        if self.workers.processes == 1:  # another process only for what may end it
            parts = [[job for job in new if needs_decoder(job.plan) is apart] for apart in (False, True)]
        written: list[tuple[Verdict, ...]] = []
        for jobs in parts:
            apart = any(needs_decoder(job.plan) for job in jobs)
            written += self.workers.map(work, jobs, "reading series", chunk=1, crashed=_crashed, apart=apart)
        self.verdicts += [*verdicts, *stored, *contradicting, *(one for group in written for one in group)]
        self.partial_views += partial_views
        self.added += sum(one.outcome is not Outcome.REJECTED for group in written for one in group)

    def take_from_pacs(self, source: PacsSource, folder: Path) -> None:
        """Fetches series and reads them, some at a time; what is stored already is not fetched."""
        stored = self.writer.notes()
        known: dict[str, list[SeriesNote]] = defaultdict(list)
        for series_id, note in stored.items():
            known[_base(series_id)].append(note)
        fetched: list[tuple[Path, list[SourceFile]]] = []

        def wanted() -> Iterator[tuple[PacsSeries, Path]]:
            for number, series in enumerate(source.series()):
                series_id = pseudonym(self.key, "series", series.series_uid)
                verdicts = _stored_of_pacs(series, known[series_id], self.key)
                if verdicts is None:
                    yield series, folder / str(number)
                else:
                    self._say(series, verdicts)

        def take_fetched() -> None:
            self.take([file for _, files in fetched for file in files])
            for place, _ in fetched:
                shutil.rmtree(place, ignore_errors=True)
            fetched.clear()

        with closing(fetch_ahead(source, wanted())) as ahead:
            for series, place, found in ahead:
                if isinstance(found, RejectedError):
                    self._say(series, [not_retrieved(series, source, found, self.key)])
                    continue
                fetched.append((place, found))
                if sum(len(files) for _, files in fetched) >= PACS_BATCH:
                    take_fetched()
        take_fetched()
        shutil.rmtree(folder, ignore_errors=True)

    def _say(self, series: PacsSeries, verdicts: Sequence[Verdict]) -> None:
        """Verdicts on a series that is not fetched."""
        self.verdicts += verdicts
        self.files += len(series.instance_uids)

    def finish(self, sources: Sequence[Path | PacsSource]) -> IngestSummary:
        """Closes the store.

        Raises:
            NoImagesError: nothing of what was met is in the store.
        """
        met = [*self.verdicts, *self.partial_views]
        taken = [verdict for verdict in met if verdict.outcome is not Outcome.REJECTED]
        if not taken:
            raise _nothing(sources, self.rules, self.files, self.verdicts)
        self.writer.finish(self.verdicts)
        return IngestSummary(
            store=self.writer.path,
            files=self.files,
            series=len(taken),
            slices=sum(verdict.slices for verdict in taken),
            added=self.added,
            skipped=len(taken) - self.added,
            verdicts=tuple(merge_verdicts([], met)),
        )


def _read_all(run: _Run, sources: Sequence[Path | PacsSource]) -> IngestSummary:
    drafts = run.writer.path / f".draft-{os.getpid()}-{secrets.token_hex(4)}"
    paths = [source for source in sources if isinstance(source, Path)]
    services = [source for source in sources if isinstance(source, PacsSource)]
    with unpacked(find_files(paths, run.writer.path), drafts) as (files, refused):
        if paths:
            run.take(files, refused)
        for number, service in enumerate(services):
            run.take_from_pacs(service, drafts / f"pacs-{number}")
        return run.finish(sources)


def _stored_of_pacs(series: PacsSeries, notes: Sequence[SeriesNote], key: bytes) -> list[Verdict] | None:
    """The verdicts on a series all of whose images are stored; None where some are not."""
    files: Counter[int] = Counter()
    for uid in series.instance_uids:
        names = {pseudonym(key, "instance", name) for name in (uid, f"{uid} frame 0")}
        home = next((i for i, note in enumerate(notes) if names & set(note.instances)), None)
        if home is None:
            return None
        files[home] += 1
    return [one for i, count in sorted(files.items()) for one in _stored_verdicts(notes[i], count)]


@dataclass(frozen=True)
class _Job:
    """A series to write; `replaces` where an older version of it is stored."""

    plan: Plan
    replaces: bool


def _process_one(job: _Job, writer: StoreWriter, key: bytes) -> tuple[Verdict, ...]:
    return process(job.plan, writer, key, job.replaces)


def _crashed(job: _Job) -> tuple[Verdict, ...]:
    """The verdict on a series that ended the process that read it."""
    detail = "reading its pixels ended the process, as damaged files do with some decoders; remove the damaged files"
    return (
        Verdict(
            Outcome.REJECTED,
            "series",
            job.plan.source_id,
            job.plan.series_id,
            files=job.plan.files,
            reason=Reason.UNDECODABLE,
            detail=detail,
        ),
    )


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
            stored += _stored_verdicts(notes[home], plan.files)
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


def _stored_verdicts(note: SeriesNote, files: int) -> list[Verdict]:
    """The verdicts as they were, with this run's number of files."""
    series, *left_out = note.verdicts
    return [replace(series, files=files - sum(verdict.files for verdict in left_out)), *left_out]


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


def _nothing(
    sources: Sequence[Path | PacsSource], rules: Rules, files: int, verdicts: Iterable[Verdict]
) -> NoImagesError:
    wanted = f"{rules.modality} images" if rules.modality else "images"
    where = (
        ", ".join(source.url if isinstance(source, PacsSource) else str(source) for source in sources) or "no source"
    )
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
