"""From DICOM images to series that can be stacked: grouped by UID and geometry, freed of copies, sorted by position.

Neither file names nor InstanceNumber order anything where positions are known. Images at one position are copies
(dropped and counted), or belong to several acquisitions (split by the tags that tell them apart), or the series is
rejected: slices of different acquisitions are never interleaved.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medssl_monai.ingest.dicom.copies import Copies, distinct, drop_copies
from medssl_monai.ingest.dicom.instance import DISCRIMINATORS, Instance
from medssl_monai.ingest.dicom.interleaved import without_interleaving
from medssl_monai.ingest.geometry import (
    Orientation,
    canonical_orientation,
    classify_spacing,
    off_line_mm,
    shear_degrees,
)
from medssl_monai.store.pseudonyms import pseudonym, shifted_day, source_id
from medssl_monai.store.verdicts import Outcome, Reason, Verdict

SAME_POSITION_MM = 0.01
SAME_COSINE = 0.005
SAME_SPACING = 0.001
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
        flags, repairs: see `Verdict`.
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
    repairs: tuple[str, ...]

    @property
    def files(self) -> int:
        """How many files it accounts for."""
        return len(self.owned)

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
        left_out = f"left out {len(broken)} image{'s' * (len(broken) > 1)} that cannot be decoded"
        return replace(
            self,
            instances=instances,
            own_ids=own_ids,
            instance_ids=tuple(one for one in self.instance_ids if one not in lost_ids),
            depths_mm=depths,
            owned=self.owned - lost,
            flags=flags,
            repairs=(*self.repairs, left_out),
        )


def series_uid(instance: Instance) -> str:
    """SeriesInstanceUID; an object without one belongs with those in its folder."""
    return instance.series_uid or f"folder {instance.path.parent.resolve()}"


def common_folder(paths: Iterable[Path]) -> Path:
    """The deepest folder that holds all the files."""
    return Path(os.path.commonpath({path.parent.resolve() for path in paths}))


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
    stacks: list[list[Instance]] = []
    tangled: list[list[Instance]] = []
    single = drop_copies(members, copies)
    short = _short_acquisitions(single)
    for group in _by_geometry(single):
        parts = _untangle(group, copies)
        stacks += parts
        if not parts and (rest := [member for member in group if member not in copies.broken]):
            tangled.append(rest)
    several, account = len(stacks) + len(tangled) > 1, _Account()
    plans = [_plan(base, source, stack, copies, account, short, several, key) for stack in stacks]
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
    orientation = None
    depths: tuple[float, ...] = ()
    if first.orientation is not None and first.position is not None:
        orientation = canonical_orientation(first.orientation[:3], first.orientation[3:])
        stack = sorted(stack, key=lambda member: _depth(member, orientation))
        depths = tuple(_depth(member, orientation) for member in stack)
    else:
        stack = sorted(stack, key=lambda member: (member.number is None, member.number or 0, member.sop_uid))
    dropped = sum(len(copies.of.get(member, ())) for member in stack)
    flags = {name for name in ("lossy", "burned_in") if any(getattr(member, name) for member in stack)}
    flags |= _spacing_flags(stack, depths)
    if short & {_acquisition(member) for member in stack}:
        flags.add("incomplete")
    repairs = []
    if dropped:
        repairs.append(f"dropped {dropped} cop{'ies' if dropped > 1 else 'y'} of images")
    if several:
        flags.add("split")
        repairs.append("split from others of the same SeriesInstanceUID by geometry or acquisition")
    if orientation is None:
        flags.add("no_geometry")
    elif "position_jumps" not in flags and _shear_degrees(stack, orientation) > TILT_DEGREES:
        flags.add("gantry_tilt")
    if any(member.imager_spacing for member in stack):
        flags.add("spacing_from_imager")
    if first.modality == "CT" and any(m.slope is None or m.intercept is None for m in stack if not m.has_lut):
        repairs.append("took stored values as HU where rescale tags are missing, as the caller declared")
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
        repairs=tuple(repairs),
    )


def _by_geometry(members: list[Instance]) -> list[list[Instance]]:
    """Groups that share shape, patient, frame of reference, orientation and spacing, the latter two up to rounding."""
    groups: list[list[Instance]] = []
    for member in members:
        home = next((group for group in groups if _stackable(group[0], member)), None)
        if home is None:
            groups.append([member])
        else:
            home.append(member)
    return groups


def _stackable(first: Instance, second: Instance) -> bool:
    def exact(member: Instance) -> object:
        located = member.position is not None and member.orientation is not None
        return member.shape, member.patient_id, member.frame_of_reference, member.modality, member.stack, located

    return (
        exact(first) == exact(second)
        and _close(first.orientation, second.orientation, 0, SAME_COSINE)
        and _close(first.spacing_mm, second.spacing_mm, SAME_SPACING, 0)
    )


def _close(first: tuple[float, ...] | None, second: tuple[float, ...] | None, relative: float, absolute: float) -> bool:
    if first is None or second is None:
        return first is second
    return all(abs(a - b) <= absolute + relative * abs(b) for a, b in zip(first, second, strict=True))


def _untangle(group: list[Instance], copies: Copies) -> list[list[Instance]]:
    """Stacks with one image a position, freed of re-sent copies; none where that cannot be had."""
    if group[0].orientation is None or group[0].position is None:
        return [group]
    orientation = canonical_orientation(group[0].orientation[:3], group[0].orientation[3:])
    unique = [member for place in _places(group, orientation) for member in distinct(place, copies)]
    places = _places(unique, orientation)
    if len(places) == len(unique):
        return _separated(unique, orientation) if unique else []
    for position in range(len(DISCRIMINATORS)):
        parts: dict[str, list[Instance]] = defaultdict(list)
        for member in unique:
            parts[member.discriminators[position]].append(member)
        whole = all(len(_places(part, orientation)) == len(part) for part in parts.values())
        # A tag that differs from slice to slice (a time, say) tells nothing apart.
        if whole and (2 * len(parts) <= len(unique) or len(places) == 1):
            return [stack for _, part in sorted(parts.items()) for stack in _separated(part, orientation)]
    return []


def _separated(part: list[Instance], orientation: Orientation) -> list[list[Instance]]:
    return without_interleaving(part, [_depth(member, orientation) for member in part])


def _places(group: list[Instance], orientation: Orientation) -> list[list[Instance]]:
    """Images by position along the normal, lowest first."""
    places: list[list[Instance]] = []
    for member in sorted(group, key=lambda member: _depth(member, orientation)):
        if places and _depth(member, orientation) - _depth(places[-1][-1], orientation) < SAME_POSITION_MM:
            places[-1].append(member)
        else:
            places.append([member])
    return places


def _position(member: Instance) -> tuple[float, ...]:
    assert member.position is not None
    return member.position


def _depth(member: Instance, orientation: Orientation) -> float:
    return float(np.dot(_position(member), orientation.slice_direction))


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
