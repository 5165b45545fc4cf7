"""Which DICOM images stack: told apart by geometry, by what an acquisition's tags have in common, and freed of copies.

Neither file names nor InstanceNumber order anything where positions are known. Images at one position are copies
(dropped and counted), or belong to several acquisitions (split by the tags that tell them apart), or cannot be told
apart: slices of different acquisitions are never interleaved. Copies are the same image sent twice or stored in two
encodings; images that differ and share a SOPInstanceUID, as bad anonymisers leave them, are no copies.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from medssl_monai.ingest.dicom.instance import DISCRIMINATORS, ENTITY_TAGS, Instance
from medssl_monai.ingest.dicom.interleaved import without_interleaving
from medssl_monai.ingest.dicom.pixels import pixel_digest
from medssl_monai.ingest.geometry import Orientation, canonical_orientation
from medssl_monai.store.verdicts import RejectedError

SAME_POSITION_MM = 0.01
SAME_COSINE = 0.005
SAME_SPACING = 0.001


@dataclass
class Copies:
    """What was found while looking for copies.

    Attributes:
        of: the copies of each image.
        broken: images that could not be compared.
        digests: of the pixels of those that were.
        shared: identities of several images that differ, as bad anonymisers leave them.
    """

    of: dict[Instance, list[Instance]] = field(default_factory=lambda: defaultdict(list))
    broken: dict[Instance, RejectedError] = field(default_factory=dict)
    digests: dict[Instance, str] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()

    def own_identity(self, member: Instance) -> str:
        """What tells an image from all others, also where they have its UID."""
        if member.identity not in self.shared:
            return member.identity
        return f"{member.identity} {self.digests[member]} {member.position} {member.orientation}"


def drop_copies(members: list[Instance], copies: Copies) -> list[Instance]:
    """One of each SOPInstanceUID with the same content; `copies` is told of the others."""
    by_uid: dict[str, list[Instance]] = defaultdict(list)
    for member in members:
        by_uid[member.identity].append(member)
    kept = [distinct(same, copies) for same in by_uid.values()]
    copies.shared = frozenset(one[0].identity for one in kept if len(one) > 1)
    return [member for one in kept for member in one]


def distinct(members: list[Instance], copies: Copies) -> list[Instance]:
    """Those that differ in pixels or position; images that cannot be decoded are left out beside others."""
    if len(members) == 1:
        return members
    kept: dict[object, Instance] = {}
    for member in members:
        try:
            copies.digests[member] = pixel_digest(member)
        except RejectedError as rejection:
            copies.broken[member] = rejection
            continue
        content = (copies.digests[member], member.position, member.orientation)
        if content in kept:
            copies.of[kept[content]].append(member)
        else:
            kept[content] = member
    return list(kept.values())


def separate(members: list[Instance], copies: Copies) -> tuple[list[list[Instance]], list[list[Instance]]]:
    """The stacks among images of one SeriesInstanceUID, and groups of images that share positions and no tag parts.

    `copies` is told of copies, and of images that could not be compared.
    """
    stacks: list[list[Instance]] = []
    tangled: list[list[Instance]] = []
    for group in (same for entity in _by_entity(members) for same in _by_geometry(entity)):
        parts = _untangle(group, copies)
        stacks += parts
        if not parts and (rest := [member for member in group if member not in copies.broken]):
            tangled.append(rest)
    return stacks, tangled


def lost_images(stacks: Sequence[Sequence[Instance]], copies: Copies) -> list[list[Instance]]:
    """Files of images that could not be compared, of which there is no copy: beside the stack that each belongs to."""
    kept = {member.identity for stack in stacks for member in stack}
    lost: list[list[Instance]] = [[] for _ in stacks]
    for member in copies.broken:
        homes = [i for i, stack in enumerate(stacks) if _stackable(stack[0], member)]
        if homes and member.identity not in kept:
            lost[max(homes, key=partial(_tags_in_common, member, stacks))].append(member)
    return lost


def _tags_in_common(member: Instance, stacks: Sequence[Sequence[Instance]], number: int) -> int:
    return sum(map(operator.eq, member.discriminators, stacks[number][0].discriminators))


def _by_entity(members: list[Instance], position: int = 0) -> list[list[Instance]]:
    """Groups of one study, series and frame of reference.

    A tag that has another value in each of three images or more tells nothing apart: bad anonymisers do that. Images
    without a value go with the others, unless those are of several.
    """
    if position == len(ENTITY_TAGS):
        return [members]
    parts: dict[str, list[Instance]] = defaultdict(list)
    for member in members:
        parts[member.entities[position]].append(member)
    if len(parts.keys() - {""}) < 2 or 2 < len(parts) == len(members):
        parts = {"": members}
    return [group for _, part in sorted(parts.items()) for group in _by_entity(part, position + 1)]


def _by_geometry(members: list[Instance]) -> list[list[Instance]]:
    """Groups that share shape, patient, orientation and spacing, the latter two up to rounding."""
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
        return member.shape, member.patient_id, member.modality, member.stack, located

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
    return without_interleaving(part, [depth_mm(member, orientation) for member in part])


def _places(group: list[Instance], orientation: Orientation) -> list[list[Instance]]:
    """Images by position along the normal, lowest first."""
    places: list[list[Instance]] = []
    for member in sorted(group, key=lambda member: depth_mm(member, orientation)):
        if places and depth_mm(member, orientation) - depth_mm(places[-1][-1], orientation) < SAME_POSITION_MM:
            places[-1].append(member)
        else:
            places.append([member])
    return places


def depth_mm(member: Instance, orientation: Orientation) -> float:
    """Where an image with a position lies along the slice direction."""
    assert member.position is not None
    return float(np.dot(member.position, orientation.slice_direction))
