"""What became of every file that ingestion met: accepted, repaired or rejected, each said once.

A series has one verdict and a stray file has one; `files` of all verdicts of a run add up to the files found.
Sentences are written here or beside the rule that was broken, never taken from an exception or a tag, so that no
identifier can travel in them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from medssl_monai.errors import InputError


class Outcome(str, Enum):
    """The three ways in which a file can end."""

    ACCEPTED = "accepted"
    REPAIRED = "repaired"
    REJECTED = "rejected"


class Reason(str, Enum):
    """Why something was rejected. The value is what stands in `verdicts.jsonl`."""

    NOT_AN_IMAGE_FILE = "NOT_AN_IMAGE_FILE"
    UNREADABLE = "UNREADABLE"
    HOSTILE_MEMBER = "HOSTILE_MEMBER"
    ARCHIVE_LIMIT = "ARCHIVE_LIMIT"
    NOT_RETRIEVED = "NOT_RETRIEVED"
    DICOMDIR = "DICOMDIR"
    NOT_AN_IMAGE = "NOT_AN_IMAGE"
    OTHER_MODALITY = "OTHER_MODALITY"
    LOCALIZER = "LOCALIZER"
    DERIVED_IMAGE = "DERIVED_IMAGE"
    MULTIFRAME = "MULTIFRAME"
    MULTIVOLUME = "MULTIVOLUME"
    COLOUR = "COLOUR"
    NO_RESCALE = "NO_RESCALE"
    NOT_HOUNSFIELD = "NOT_HOUNSFIELD"
    VALUE_RANGE = "VALUE_RANGE"
    UNDECODABLE = "UNDECODABLE"
    AMBIGUOUS_POSITIONS = "AMBIGUOUS_POSITIONS"
    STORED_OTHERWISE = "STORED_OTHERWISE"
    DUPLICATE = "DUPLICATE"


class RejectedError(InputError):
    """Something that was read is not wanted, or could not be read; carries the verdict's reason and sentence."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


FLAGS: dict[str, str] = {
    "burned_in": "the tags say that text is burned into the pixels",
    "by_slice_location": "no positions: the slices are in the order of SliceLocation, a number of the scanner's",
    "clipped": "values beyond int16 were clipped",
    "colour": "a colour picture: its luma was stored (ITU-R BT.601: 0.299 red, 0.587 green, 0.114 blue)",
    "gantry_tilt": "slices are sheared against their normal; the affine carries the shear",
    "incomplete": "fewer images than the tags say the acquisition has: slices are missing, perhaps at an end",
    "high_bits": "bits above BitsStored were not empty; they were dropped",
    "inconsistent_tags": "tags of the study or series differ from slice to slice: they may not be of one series",
    "inverted": "MONOCHROME1: turned over, so that what attenuates more is brighter",
    "gap": "inner slices are missing; the slices are fine, the volume is not",
    "lowered": "32768 was subtracted from the stored values, which need all 16 bits without a sign",
    "lossy": "compressed with loss before ingestion",
    "no_air": "no voxel is as low as air: a small field of view, or values that are not HU",
    "no_geometry": "no position or orientation: the slices are as stored, in the order of their numbers",
    "no_tissue": "no voxel is above air: empty slices, or values that are not HU",
    "non_finite": "NaN or infinite voxels were set to -1024",
    "orientation_assumed": "the header says nothing of the patient's orientation; the format's default was assumed",
    "padded": "padding outside the field of view was set to -1024",
    "patient_unknown": "patients cannot be told apart: the pseudonym stands for the series or the file",
    "qform_sform_differ": "NIfTI qform and sform disagree; the sform was used",
    "position_jumps": "slices are shifted against one another within their plane: they are fine, the volume is refused",
    "sheared": "the affine is not orthogonal",
    "sign_corrected": "only one of PixelRepresentation and JPEG 2000 codestream says that values have a sign: they do",
    "spacing_from_imager": "spacing is that of the detector (ImagerPixelSpacing), not of the patient",
    "split": "one of several series that shared a SeriesInstanceUID",
    "transparent": "a picture with transparency, which was dropped: its colours or grey values were stored",
    "undeclared_padding": "padding that no tag declares was found, and set to -1024",
    "unreadable_tags": "tags of the geometry are there and are not the numbers that they should be",
    "variable_spacing": "the distance between slices changes within the series",
}
"""The words that may stand in the index's `flags` column, and what they say."""

REPAIRING_FLAGS = frozenset(
    {"clipped", "colour", "inverted", "lowered", "non_finite", "sign_corrected", "transparent", "undeclared_padding"}
)
"""Flags that say that values were changed: a series with one of them counts as repaired."""


@dataclass(frozen=True)
class Verdict:
    """What became of a series or of a stray file.

    Attributes:
        outcome: accepted, repaired or rejected.
        kind: "series", or "file" for a file that belongs to none.
        source_id: keyed hash of the file's path, or of the series' common folder.
        series_id: the series' pseudonym; empty for a stray file.
        files: how many of the files found this verdict accounts for.
        slices: how many slices reached the store.
        modality: DICOM modality, empty where unknown.
        reason: why it was rejected; None otherwise.
        detail: one sentence on the rejection; empty otherwise.
        repairs: what was done, one sentence each.
        flags: see `FLAGS`.
    """

    outcome: Outcome
    kind: str
    source_id: str
    series_id: str = ""
    files: int = 1
    slices: int = 0
    modality: str = ""
    reason: Reason | None = None
    detail: str = ""
    repairs: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """The series it speaks of, or the file where there is no series."""
        return self.series_id or self.source_id

    def to_json(self) -> dict[str, Any]:
        """Plain values, in the order of the fields."""
        return {**asdict(self), "outcome": self.outcome.value, "reason": self.reason.value if self.reason else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Verdict:
        """The inverse of `to_json`."""
        verdict = cls(**values)
        return replace(
            verdict,
            outcome=Outcome(verdict.outcome),
            reason=Reason(verdict.reason) if verdict.reason else None,
            repairs=tuple(verdict.repairs),
            flags=tuple(verdict.flags),
        )


def merge_verdicts(earlier: Iterable[Verdict], later: Iterable[Verdict]) -> list[Verdict]:
    """Verdicts of two runs as one sorted list: the later run has the last word on whatever it met."""
    newer = list(later)
    met = {verdict.subject for verdict in newer}
    merged = newer + [verdict for verdict in earlier if verdict.subject not in met]
    return sorted(merged, key=lambda v: (v.kind, v.source_id, v.series_id, v.reason or "", v.detail, v.files))


def files_by_reason(verdicts: Iterable[Verdict]) -> list[tuple[str, int]]:
    """Number of rejected files by reason code, most frequent first."""
    counts: Counter[str] = Counter()
    for verdict in verdicts:
        if verdict.reason is not None:
            counts[verdict.reason.value] += verdict.files
    return counts.most_common()


def write_verdicts(path: Path, verdicts: Iterable[Verdict]) -> None:
    """One JSON object a line."""
    lines = (json.dumps(verdict.to_json(), ensure_ascii=False) for verdict in verdicts)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_verdicts(path: Path) -> list[Verdict]:
    """The verdicts in a `verdicts.jsonl`; an empty list where there is no such file."""
    if not path.is_file():
        return []
    return [Verdict.from_json(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
