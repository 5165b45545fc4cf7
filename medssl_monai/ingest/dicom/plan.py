"""From DICOM images to the series that will be written: stacked, sorted by position, described, their files counted."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medssl_monai.ingest.dicom.admission import Rules
from medssl_monai.ingest.dicom.instance import DISCRIMINATORS, Instance
from medssl_monai.ingest.dicom.stacks import Copies, depth_mm, drop_copies, lost_images, separate
from medssl_monai.ingest.geometry import (
    Orientation,
    canonical_orientation,
    classify_spacing,
    off_line_mm,
    shear_degrees,
)
from medssl_monai.ingest.scan import Found
from medssl_monai.store.pseudonyms import pseudonym, shifted_day, source_id
from medssl_monai.store.records import broken_id
from medssl_monai.store.verdicts import Outcome, Reason, Verdict

TILT_DEGREES = 1.0
OFF_LINE_MM = 0.5

STACK_FLAGS = frozenset({"gap", "variable_spacing", "position_jumps"})
"""What holds for a stack by the positions of its slices."""


@dataclass(frozen=True)
class DicomPlan:
    """A series as it will be written.

    Attributes:
        instances: in the order of the store.
        own_ids: a pseudonym of each instance, in their order.
        instance_ids: by what the store knows the images again, sorted: their own ids, and those of UIDs they share.
        orientation: None where the tags give none.
        shifted_day: of the study, see `pseudonyms.shifted_day`; None where no date is known.
        depths_mm: position of each instance along the slice direction; empty where there is no orientation.
        owned: the files it accounts for, dropped copies included; a file's frames may be in several plans.
        flags: see `Verdict`.
        done: what was done, sentences as of `Verdict.repairs`.
        lost: images that cannot be decoded, none of whose copies can be.
        lost_ids: `broken_id` of the files of those of them that were compared with others, and are in no plan.
        assume_hu: whether its values are in HU also where they do not look like it.
    """

    series_id: str
    patient: str
    source_id: str
    instances: tuple[Instance, ...]
    own_ids: tuple[str, ...]
    instance_ids: tuple[str, ...]
    orientation: Orientation | None
    shifted_day: int | None
    depths_mm: tuple[float, ...]
    owned: frozenset[Path]
    flags: frozenset[str]
    done: tuple[str, ...]
    lost: int = 0
    lost_ids: tuple[str, ...] = ()
    assume_hu: bool = False

    @property
    def files(self) -> int:
        """How many files it accounts for."""
        return len(self.owned)

    @property
    def repairs(self) -> tuple[str, ...]:
        """See `Verdict`."""
        plural = "s" * (self.lost > 1)
        return (*self.done, *[f"left out {self.lost} image{plural} that cannot be decoded"] * bool(self.lost))

    def without(self, broken: set[int]) -> DicomPlan:
        """The plan without the instances of these positions, which have verdicts of their own.

        Their ids are left out too, so that the series has grown once they can be decoded.
        """
        kept = [i for i in range(len(self.instances)) if i not in broken]
        instances = tuple(self.instances[i] for i in kept)
        depths = tuple(self.depths_mm[i] for i in kept) if self.depths_mm else ()
        flags = (self.flags - STACK_FLAGS) | _spacing_flags(instances, depths)
        lost = {self.instances[i].path for i in broken} - {instance.path for instance in instances}
        own_ids = tuple(self.own_ids[i] for i in kept)
        lost_ids = {self.own_ids[i] for i in broken} - set(own_ids)
        return replace(
            self,
            instances=instances,
            own_ids=own_ids,
            instance_ids=tuple(one for one in self.instance_ids if one not in lost_ids),
            depths_mm=depths,
            owned=self.owned - lost,
            flags=flags,
            lost=self.lost + len(broken),
        )


def series_uid(instance: Instance) -> str:
    """SeriesInstanceUID; an object without one belongs with those in its folder."""
    return instance.series_uid or f"folder {instance.path.parent.resolve()}"


def common_folder(paths: Iterable[Path]) -> Path:
    """The deepest folder that holds all the files."""
    return Path(os.path.commonpath({path.parent.resolve() for path in paths}))


def plan_images(found: Sequence[Found], key: bytes, rules: Rules) -> tuple[list[DicomPlan], list[Verdict]]:
    """The series to be stored among all files of one SeriesInstanceUID, and verdicts on what is in none of them."""
    taken = [instance for one in found for instance, refused in one.instances if refused is None]
    verdicts = _refused_series(found, {instance.path for instance in taken}, key)
    plans, ambiguous = plan_series(taken, key)
    return [replace(plan, assume_hu=rules.assume_hu) for plan in plans], [*verdicts, *ambiguous]


def plan_series(instances: Sequence[Instance], key: bytes) -> tuple[list[DicomPlan], list[Verdict]]:
    """All series among the images that were taken, and verdicts on those whose slices cannot be told apart."""
    by_uid: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        by_uid[series_uid(instance)].append(instance)
    plans: list[DicomPlan] = []
    verdicts: list[Verdict] = []
    for uid, members in sorted(by_uid.items()):
        series_plans, series_verdicts = _plan_one_uid(uid, members, key)
        plans += series_plans
        verdicts += series_verdicts
    return plans, verdicts


@dataclass
class _Account:
    """Gives each file to one verdict: the first that asks for it."""

    given: set[Path] = field(default_factory=set)

    def take(self, members: Iterable[Instance], copies: Copies) -> frozenset[Path]:
        """The files of these images and of their copies that nobody has yet."""
        files = {one.path for member in members for one in (member, *copies.of.get(member, ()))} - self.given
        self.given |= files
        return frozenset(files)


def _plan_one_uid(uid: str, members: list[Instance], key: bytes) -> tuple[list[DicomPlan], list[Verdict]]:
    base = pseudonym(key, "series", uid)
    source = source_id(key, common_folder(member.path for member in members))
    # Content decides the order of everything from here on, so that renamed files give the same store.
    members = sorted(members, key=lambda m: (m.sop_uid, m.frame or 0, m.position or (), str(m.path)))
    copies = Copies()
    single = drop_copies(members, copies)
    short = _short_acquisitions(single)
    stacks, tangled = separate(single, copies)
    several, account = len(stacks) + len(tangled) > 1, _Account()
    lost = lost_images(stacks, copies)
    plans = [
        _with_lost(_plan(base, source, stack, copies, account, short, several, key), gone, key)
        for stack, gone in zip(stacks, lost, strict=True)
    ]
    detail = "several images share a position and no tag tells them apart; split the series before ingestion"
    verdicts = [
        Verdict(
            Outcome.REJECTED,
            "series",
            source,
            base,
            files=len(account.take(group, copies)),
            modality=group[0].modality,
            reason=Reason.AMBIGUOUS_POSITIONS,
            detail=detail,
        )
        for group in tangled
    ]
    verdicts += [
        Verdict(
            Outcome.REJECTED,
            "file",
            source_id(key, member.path),
            files=len(account.take([member], copies)),
            modality=member.modality,
            reason=rejection.reason,
            detail=rejection.detail,
        )
        for member, rejection in copies.broken.items()
    ]
    return plans, verdicts


def _with_lost(plan: DicomPlan, lost: Sequence[Instance], key: bytes) -> DicomPlan:
    ids = (broken_id(pseudonym(key, "instance", member.identity), member.content) for member in lost)
    return replace(plan, lost=len({member.identity for member in lost}), lost_ids=tuple(sorted(ids)))


def _plan(
    base: str,
    source: str,
    stack: list[Instance],
    copies: Copies,
    account: _Account,
    short: frozenset[str],
    several: bool,
    key: bytes,
) -> DicomPlan:
    """Sorts a stack and says what holds for it."""
    first = stack[0]
    flags = {name for name in ("lossy", "burned_in") if any(getattr(member, name) for member in stack)}
    orientation = None
    depths: tuple[float, ...] = ()
    if first.orientation is not None and first.position is not None:
        orientation = canonical_orientation(first.orientation[:3], first.orientation[3:])
        stack = sorted(stack, key=lambda member: depth_mm(member, orientation))
        depths = tuple(depth_mm(member, orientation) for member in stack)
    else:
        stack = sorted(stack, key=lambda member: (member.number is None, member.number or 0, member.sop_uid))
        locations = [member.slice_location for member in stack]
        if None not in locations and len(set(locations)) == len(stack) > 1:
            stack = sorted(stack, key=lambda member: member.slice_location or 0.0)
            flags.add("by_slice_location")
    dropped = sum(len(copies.of.get(member, ())) for member in stack)
    flags |= _spacing_flags(stack, depths)
    if short & {_acquisition(member) for member in stack}:
        flags.add("incomplete")
    done = []
    if dropped:
        done.append(f"dropped {dropped} cop{'ies' if dropped > 1 else 'y'} of images")
    if several:
        flags.add("split")
        done.append("split from others of the same SeriesInstanceUID by geometry or acquisition")
    if any(member.unreadable for member in stack):
        flags.add("unreadable_tags")
    if any(len(set(values)) > 1 for values in zip(*(member.entities for member in stack), strict=True)):
        flags.add("inconsistent_tags")
    if orientation is None:
        flags.add("no_geometry")
    elif "position_jumps" not in flags and _shear_degrees(stack, orientation) > TILT_DEGREES:
        flags.add("gantry_tilt")
    if any(member.imager_spacing for member in stack):
        flags.add("spacing_from_imager")
    if first.modality == "CT" and any(m.slope is None or m.intercept is None for m in stack if not m.has_lut):
        done.append("took stored values as HU where rescale tags are missing, as the caller declared")
    if not first.patient_id:
        flags.add("patient_unknown")
    # Without a PatientID the series stands for the patient: two of them are then never taken for one.
    patient = first.patient_id or f"series {series_uid(first)}"
    days = [member.study_day for member in stack if member.study_day is not None]
    own_ids = tuple(pseudonym(key, "instance", copies.own_identity(member)) for member in stack)
    shared_ids = {pseudonym(key, "instance", member.identity) for member in stack if member.identity in copies.shared}
    return DicomPlan(
        series_id=f"{base}-{min(own_ids)[1:7]}" if several else base,
        patient=pseudonym(key, "patient", patient),
        source_id=source,
        instances=tuple(stack),
        own_ids=own_ids,
        instance_ids=tuple(sorted({*own_ids, *shared_ids})),
        orientation=orientation,
        shifted_day=shifted_day(key, patient, min(days)) if days else None,
        depths_mm=depths,
        owned=account.take(stack, copies),
        flags=frozenset(flags),
        done=tuple(done),
    )


def _position(member: Instance) -> tuple[float, ...]:
    assert member.position is not None
    return member.position


def _spacing_flags(stack: Sequence[Instance], depths: Sequence[float]) -> set[str]:
    if not depths:
        return set()
    flags = classify_spacing(depths, [member.number for member in stack], [member.thickness_mm for member in stack])
    jumps = off_line_mm([_position(member) for member in stack], depths) > OFF_LINE_MM
    return flags | {"position_jumps"} if jumps else flags


def _shear_degrees(stack: Sequence[Instance], orientation: Orientation) -> float:
    return shear_degrees(orientation, _position(stack[0]), _position(stack[-1])) if len(stack) > 1 else 0.0


def _short_acquisitions(members: Iterable[Instance]) -> frozenset[str]:
    """Acquisitions with fewer images than ImagesInAcquisition promises (PS3.3 C.7.6.1).

    This is how a missing end is known: nothing about the slices that are left shows it.
    """
    found = Counter(_acquisition(member) for member in members)
    return frozenset(_acquisition(one) for one in members if (one.expected or 0) > found[_acquisition(one)])


def _acquisition(member: Instance) -> str:
    return member.discriminators[DISCRIMINATORS.index("AcquisitionNumber")]


def _refused_series(found: Sequence[Found], counted: set[Path], key: bytes) -> list[Verdict]:
    """One verdict for all images of a series that were refused for the same reason.

    Args:
        found: all files of it.
        counted: files that other verdicts account for, because some of their frames were taken.
        key: of the pseudonyms.
    """
    groups: dict[tuple[str, Reason, str], list[Instance]] = defaultdict(list)
    for one in found:
        for instance, refused in one.instances:
            if refused is not None:
                groups[(series_uid(instance), *refused)].append(instance)
    verdicts = []
    for (uid, reason, detail), members in groups.items():
        files = {member.path for member in members} - counted
        counted = counted | files
        verdicts.append(
            Verdict(
                Outcome.REJECTED,
                "series",
                source_id(key, common_folder(member.path for member in members)),
                pseudonym(key, "series", uid),
                files=len(files),
                modality=members[0].modality,
                reason=reason,
                detail=detail,
            )
        )
    return verdicts
