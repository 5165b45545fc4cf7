"""Images that are the same: sent twice, or stored in two encodings. And images that only say so of themselves."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.ingest.dicom.pixels import pixel_digest
from medssl_monai.store.verdicts import RejectedError


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
