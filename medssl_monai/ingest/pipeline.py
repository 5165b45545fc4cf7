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
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from medssl_monai.errors import InputError, NoImagesError
from medssl_monai.ingest.compare import Job, StoredSeries
from medssl_monai.ingest.dicom.admission import Rules
from medssl_monai.ingest.dicom.modalities import checked_modality
from medssl_monai.ingest.dicom.plan import plan_images
from medssl_monai.ingest.origins import Origins
from medssl_monai.ingest.pacs import fetch_batches
from medssl_monai.ingest.scan import PICTURE_AS_CT, Found, find_files, look_at
from medssl_monai.ingest.series_headers import SeriesHeaders
from medssl_monai.ingest.single_slices import SingleSlices
from medssl_monai.ingest.sources.archives import RefusedFile, unpacked
from medssl_monai.ingest.sources.dicomweb import PacsSource
from medssl_monai.ingest.sources.paths import SourceFile, source_path
from medssl_monai.ingest.summary import IngestSummary
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.ingest.volumes.plan import VolumePlan, plan_volumes
from medssl_monai.ingest.workers import Workers
from medssl_monai.ingest.write_series import Plan, process
from medssl_monai.store.disk import exclusive, writing, writing_among_others
from medssl_monai.store.pseudonyms import checked_key, key_check, load_key, source_id
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.report import write_report
from medssl_monai.store.verdicts import Outcome, Reason, Verdict, merge_verdicts
from medssl_monai.store.writer import StoreWriter

LOOKED_AT_HERE = 2000
"""Files whose headers the main process reads while the others start, which takes a second."""


def build_store(
    sources: str | Path | PacsSource | Sequence[str | Path | PacsSource],
    out: str | Path,
    *,
    key: bytes | None = None,
    modality: str | None = None,
    workers: int = 1,
    progress: bool = True,
    assume_hu: bool = False,
    report: bool = False,
    scheduler: str | None = None,
    exact: bool = False,
    planned: Callable[[Plan], object] | None = None,
    names: bool = False,
    patients: NamedPatients | None = None,
) -> IngestSummary:
    """Reads every image in files and folders into a slice store.

    Args:
        sources: one or several: files, and folders with all that is in them; DICOM, NIfTI, NRRD, MetaImage and pictures
            are told by content and name, archives are read as folders, whatever else is there ends in a verdict. Or a
            PACS.
        out: the store; made, or added to.
        key: of the pseudonyms; None loads the user's own (see `pseudonyms.load_key`).
        modality: the one to take, such as CT; None takes every imaging modality. Volume files say nothing of theirs:
            they are CT if their values are HU, or whatever else is named here. Pictures are never CT.
        workers: processes that decode; one more decodes compressed DICOM where this is 1. They do not import the
            caller's main module, which needs no guard.
        progress: whether to show bars on stderr.
        assume_hu: take CT without rescale tags, and volume files, for HU unseen.
        report: whether to write `report.html` into the store (see `report.write_report`).
        scheduler: address of a Dask scheduler whose workers are used instead of processes (see `workers.Workers`).
        exact: whether the store is to hold what these files and folders (not a PACS) hold and nothing else: what
            earlier runs met and this one does not, series, images of series and verdicts, is taken out.
        planned: called with the plan of each series before it is written, also of those that are there already; the
            files, and members of archives, can be read then.
        names: whether the summary says where series and files came from; `names_file.add_names` writes it down.
        patients: who the patients of volume files and pictures are; without it each file stands for a patient.

    Raises:
        NoImagesError: nothing there could be stored; no store is left behind, and an existing one is unchanged.
        StoreError: `out` holds something else, a store made with another key, or another run writes into it.
        InputError: a source is empty or does not exist; a modality that DICOM does not know; a PACS or the scheduler
            does not answer; the disk is full, or the store may not be written.
    """
    modality = None if modality is None else checked_modality(modality)
    key = load_key() if key is None else checked_key(key)
    out = source_path(out)
    each = [sources] if isinstance(sources, (str, Path, PacsSource)) else sources
    given = [source if isinstance(source, PacsSource) else source_path(source) for source in each]
    for source in given:
        if isinstance(source, Path) and not os.path.exists(source):  # noqa: PTH110  never raises
            raise InputError(f"source {source}: does not exist, or its folder may not be read; name a file or a folder")
    if workers < 1:
        raise InputError(f"workers: must be at least 1, found {workers}")
    with writing(out):
        is_new = not out.exists()
        writer = StoreWriter(out, key_check(key))
    rules = Rules(modality=modality, assume_hu=assume_hu)
    with exclusive(out), writing_among_others(out):
        try:
            writer.recover()
            with Workers(workers, scheduler, progress) as hands:
                origins = Origins(key) if names else None
                named = patients or NamedPatients()
                summary = _read_all(partial(_Run, writer, key, rules, hands, named, exact, planned, origins), given)
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
    patients: NamedPatients
    exact: bool = False
    planned: Callable[[Plan], object] | None = None
    origins: Origins | None = None
    files: int = 0
    added: int = 0
    verdicts: list[Verdict] = field(default_factory=list)
    partial_views: list[Verdict] = field(default_factory=list)
    single_slices: SingleSlices = field(default_factory=SingleSlices)

    def take(self, files: Collection[SourceFile], refused: Sequence[RefusedFile] = ()) -> None:
        """Reads files into the store."""
        self.files += len(files) + len(refused)
        headers, volumes = self._look_at(files)
        if self.origins is not None:
            self.origins.note_uids(headers.uids)
        self._reject(refused)
        plans, copies = plan_volumes(volumes, self.key, self.rules, self.patients)
        self.verdicts += copies
        work = partial(_process_one, writer=self.writer, key=self.key)
        # With one worker, another process decodes only what may end it; else both kinds are shared out together.
        kinds = (False, True) if self.workers.processes == 1 else (None,)
        stored = StoredSeries(self.writer)
        with self.workers.bar(headers.count() + len(plans), "reading series") as bar:
            for kind in kinds:
                count = headers.count(kind) + len(plans)
                apart = headers.count(True) > 0 and kind is not False
                jobs = self._jobs(headers.take(kind), plans, stored, bar)
                for written in self.workers.each(work, jobs, count, crashed=_crashed, apart=apart):
                    self.verdicts += written
                    self.added += sum(one.outcome is not Outcome.REJECTED for one in written)
                plans = []
        if self.origins is not None:
            places = (one.path for group in (files, refused) for one in group)
            self.origins.note_places(places, self.verdicts)

    def _look_at(self, files: Collection[SourceFile]) -> tuple[SeriesHeaders, list[Found]]:
        """The images by series, and the volume files and pictures; other files get their verdicts."""
        headers, volumes = SeriesHeaders(), []
        look = partial(look_at, rules=self.rules)
        with self.workers.bar(len(files), "looking at files") as bar:
            for found in self.workers.each(look, files, len(files), chunk=64, here=LOOKED_AT_HERE):
                if found.refused is not None:
                    self._reject([RefusedFile(found.file.path, *found.refused)])
                elif found.digest:
                    volumes.append(found)
                elif found.instances:
                    headers.add(found)
                bar.update()
        return headers, volumes

    def _jobs(
        self, groups: Iterable[list[Found]], volumes: Sequence[VolumePlan], stored: StoredSeries, bar: Any
    ) -> Iterator[Job]:
        """The series to be written; all others get their verdicts."""
        for plans, verdicts in self._planned(groups, volumes):
            if self.planned is not None:
                for plan in plans:
                    self.planned(plan)
            if self.origins is not None:
                self.origins.note_plans(plans)
            self.single_slices.note(plans)
            compared = stored.compare(plans)
            self.verdicts += [*verdicts, *compared.stored, *compared.contradicting]
            self.partial_views += compared.partial_views
            yield from compared.jobs
            bar.update()

    def _planned(
        self, groups: Iterable[list[Found]], volumes: Sequence[VolumePlan]
    ) -> Iterator[tuple[Sequence[Plan], list[Verdict]]]:
        yield from (([plan], []) for plan in volumes)
        yield from (plan_images(group, self.key, self.rules) for group in groups)

    def _reject(self, refused: Iterable[RefusedFile]) -> None:
        self.verdicts += [
            Verdict(Outcome.REJECTED, "file", source_id(self.key, one.path), reason=one.reason, detail=one.detail)
            for one in refused
        ]

    def take_from_pacs(self, source: PacsSource, folder: Path) -> None:
        """Fetches series and reads them, some at a time; what is stored already is not fetched."""
        listed = None if self.origins is None else partial(self.origins.note_pacs_series, source)
        for batch in fetch_batches(source, folder, self.writer.notes(), self.key, listed):
            self.verdicts += batch.verdicts
            self.files += sum(verdict.files for verdict in batch.verdicts)
            if batch.files:
                self.take(batch.files)

    def remove_others(self) -> bool:
        """Takes out what is stored and was not met as it is; whether there was anything."""
        met = {verdict.series_id for verdict in self.verdicts if verdict.outcome is not Outcome.REJECTED}
        otherwise = any(verdict.reason is Reason.STORED_OTHERWISE for verdict in self.verdicts)
        if not met and not self.partial_views and not otherwise:
            return False  # there are no images, which is an error, after which the store is as it was
        others = [series_id for series_id in self.writer.series_ids() if series_id not in met]
        for series_id in others:
            self.writer.remove(series_id)
        return bool(others)

    def finish(self, sources: Sequence[Path | PacsSource]) -> IngestSummary:
        """Closes the store.

        Raises:
            NoImagesError: nothing of what was met is in the store.
        """
        met = [*self.verdicts, *self.partial_views]
        taken = [verdict for verdict in met if verdict.outcome is not Outcome.REJECTED]
        if not taken:
            raise _nothing(sources, self.rules, self.files, self.verdicts)
        self.writer.finish(self.verdicts, alone=self.exact)
        verdicts = tuple(merge_verdicts([], met))
        return IngestSummary(
            store=self.writer.path,
            files=self.files,
            series=len(taken),
            slices=sum(verdict.slices for verdict in taken),
            added=self.added,
            skipped=len(taken) - self.added,
            verdicts=verdicts,
            names=() if self.origins is None else self.origins.names(verdicts),
            patients=SliceStore(self.writer.path).patients_told(),
            statements=tuple(self.single_slices.statements()),
        )


def _read_all(begin: Callable[[], _Run], sources: Sequence[Path | PacsSource]) -> IngestSummary:
    run = begin()
    drafts = run.writer.path / f".draft-{os.getpid()}-{secrets.token_hex(4)}"
    paths = [source for source in sources if isinstance(source, Path)]
    services = [source for source in sources if isinstance(source, PacsSource)]
    with unpacked(find_files(paths, run.writer.path), drafts) as (files, refused):
        if paths:
            run.take(files, refused)
        if run.exact and run.remove_others():
            added, run = run.added, begin()  # takes what older versions stood against; the rest is there
            run.take(files, refused)
            run.added += added
        for number, service in enumerate(services):
            run.take_from_pacs(service, drafts / f"pacs-{number}")
        return run.finish(sources)


def _process_one(job: Job, writer: StoreWriter, key: bytes) -> tuple[Verdict, ...]:
    return process(job.plan, writer, key, job.replaces)


def _crashed(job: Job) -> tuple[Verdict, ...]:
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
    if set(example.values()) == {PICTURE_AS_CT}:
        return NoImagesError(f"{where}: no {wanted} among {files} files: each {PICTURE_AS_CT}")
    if rules.modality == "OT" and set(reasons) & {Reason.OTHER_MODALITY.value}:
        return NoImagesError(
            f"{where}: no pictures among {files} files, which are of another modality "
            f"({example[Reason.OTHER_MODALITY.value]}); leave `--config pictures` out, or name the modality"
        )
    why = "; ".join(f"{count} {reason}: {example[reason]}" for reason, count in reasons.most_common(3))
    return NoImagesError(
        f"{where}: no {wanted} that could be read among {files} files{f' ({why})' if why else ''}; "
        "name a folder with DICOM, NIfTI, NRRD, MetaImage or picture files"
    )
