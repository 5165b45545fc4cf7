"""What a store holds of a series already, and what that leaves to be done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from medssl_monai.ingest.dicom.plan import DicomPlan
from medssl_monai.ingest.volumes.plan import VolumePlan
from medssl_monai.ingest.write_series import Plan
from medssl_monai.store.records import SeriesNote, broken_id
from medssl_monai.store.verdicts import Outcome, Reason, Verdict
from medssl_monai.store.writer import StoreWriter


@dataclass(frozen=True)
class Job:
    """A series to write; `replaces` where an older version of it is stored."""

    plan: Plan
    replaces: bool


@dataclass
class Compared:
    """Some series beside a store.

    Attributes:
        jobs: what is to be written.
        stored: verdicts on what is stored already.
        partial_views: on series of which more is stored than was found.
        contradicting: on series of which something else is stored.
    """

    jobs: list[Job] = field(default_factory=list)
    stored: list[Verdict] = field(default_factory=list)
    partial_views: list[Verdict] = field(default_factory=list)
    contradicting: list[Verdict] = field(default_factory=list)


class StoredSeries:
    """The series of a store as they were when this was made.

    Args:
        writer: of the store.
    """

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._relatives: dict[str, list[str]] = defaultdict(list)
        for series_id in writer.series_ids():
            self._relatives[uid_part(series_id)].append(series_id)

    def compare(self, plans: Sequence[Plan]) -> Compared:
        """What is to be done about all series of one SeriesInstanceUID, or about one volume file.

        A series that grew replaces what was stored of it, also where it is now split otherwise. Images that could not
        be decoded are wanted again as soon as their files have changed.

        Raises:
            StoreError: a part was made with another key or schema version.
        """
        notes: dict[str, SeriesNote] = {}
        for base in {uid_part(plan.series_id) for plan in plans}:
            notes |= {series_id: self._writer.note(series_id) for series_id in self._relatives.get(base, ())}
        still_broken = {plan.series_id: _still_broken(plan, notes.values()) for plan in plans}
        planned: dict[str, set[str]] = defaultdict(set)
        for plan in plans:
            planned[uid_part(plan.series_id)].update(set(plan.instance_ids) - still_broken[plan.series_id].keys())
        outgrown = {
            series_id for series_id, note in notes.items() if planned[uid_part(series_id)] > set(note.instances)
        }
        gone = outgrown - {plan.series_id for plan in plans}
        found = Compared()
        for plan in plans:
            broken = still_broken[plan.series_id]
            images = set(plan.instance_ids) - broken.keys()
            kin = [i for i in self._relatives.get(uid_part(plan.series_id), ()) if i not in gone]
            home = next((i for i in kin if images <= set(notes[i].instances)), None)
            lost = sorted((*broken.values(), *getattr(plan, "lost_ids", ())))
            if home is not None and _of_another_patient(plan, notes[home]):
                found.jobs.append(Job(plan, replaces=True))
            elif home is not None and _is_all(notes[home], images, lost):
                found.stored += stored_verdicts(notes[home], plan.files)
            elif home == plan.series_id and set(lost) > set(notes[home].undecodable) and _is_all(notes[home], images):
                found.jobs.append(Job(plan, replaces=True))
            elif home is not None:
                found.partial_views.append(replace(notes[home].verdicts[0], files=plan.files))
            elif all(series_id in outgrown for series_id in kin):
                found.jobs.append(Job(plan, replaces=plan.series_id in notes))
            else:
                found.contradicting.append(_contradiction(plan))
        for series_id in sorted(gone):
            self._writer.remove(series_id)
        return found


def _of_another_patient(plan: Plan, note: SeriesNote) -> bool:
    """Whether the caller names another patient than when it was stored; who names none leaves it as it is."""
    return isinstance(plan, VolumePlan) and plan.patient_known and plan.patient != note.patient


def _is_all(note: SeriesNote, images: set[str], lost: Sequence[str] | None = None) -> bool:
    return images == set(note.instances) and lost in (None, list(note.undecodable))


def _still_broken(plan: Plan, notes: Iterable[SeriesNote]) -> dict[str, str]:
    """Images that are not stored because the very same files could not be decoded, with their `broken_id`."""
    notes = list(notes)
    known_broken = {one for note in notes for one in note.undecodable}
    if not known_broken or not isinstance(plan, DicomPlan):
        return {}
    stored = {one for note in notes for one in note.instances}
    found = {}
    for own_id, instance in zip(plan.own_ids, plan.instances, strict=True):
        if own_id not in stored and (name := broken_id(own_id, instance.content)) in known_broken:
            found[own_id] = name
    return found if len(found) < len(plan.own_ids) else {}


def uid_part(series_id: str) -> str:
    """What the ids of all parts of a split series share."""
    return series_id.partition("-")[0]


def stored_verdicts(note: SeriesNote, files: int) -> list[Verdict]:
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
