"""Tells stacks apart that share a SeriesInstanceUID and lie between one another, at positions that never coincide.

A second reconstruction half a slice further, with another kernel, looks like one series of half the spacing. A tag
tells the two apart if its values lie in each other's usual gaps. Values that follow one another along the stack (step
and shoot), fill one another's gaps, or come and go without order do not part a series.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medssl_monai.ingest.dicom.instance import DISCRIMINATORS, Instance
from medssl_monai.ingest.geometry import classify_spacing

CONSTANT_IN_A_STACK = frozenset(
    {
        *("ConvolutionKernel", "ImageType", "KVP", "EchoNumbers", "DiffusionBValue"),
        *("TemporalPositionIdentifier", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase"),
        *(
            "SeriesDescription",
            "ProtocolName",
            "SeriesDate",
            "SeriesTime",
            "StudyTime",
            "AcquisitionDate",
            "ContentDate",
        ),
        *("ContrastBolusAgent", "DerivationDescription", "FilterType", "ReconstructionDiameter", "SliceThickness"),
        *("ScanOptions", "PatientPosition", "StationName"),
    }
)
"""Tags that say how an image was made: one stack has one value. Numbers and times of acquisitions may alternate within
a stack (slices taken in two passes, every other one first), and need more evidence."""

USUAL_GAP = 1.5
"""A gap between slices is a usual one up to so many times the usual distance; beyond, slices are missing there."""

OVERLAPPING = 1.5
"""Slices so many times as thick as they are apart overlap, which those of several passes never do."""


def without_interleaving(members: Sequence[Instance], depths: Sequence[float]) -> list[list[Instance]]:
    """The stacks among images of one geometry, one or several.

    Args:
        members: images, no two of them at one position.
        depths: their positions along the normal, mm.
    """
    order = np.argsort(np.asarray(depths, np.float64), kind="stable").tolist()
    places = np.asarray([depths[i] for i in order], np.float64)
    images = [members[i] for i in order]
    for position, keyword in enumerate(DISCRIMINATORS):
        rows: dict[str, list[int]] = defaultdict(list)
        for row, image in enumerate(images):
            rows[image.discriminators[position]].append(row)
        if len(rows) < 2 or 2 * len(rows) > len(images):  # one value, or one for each slice, parts nothing
            continue
        parts = [part for _, part in sorted(rows.items())]
        if not _intermixed([places[part] for part in parts]):
            continue
        if keyword in CONSTANT_IN_A_STACK or _never_one_stack(images, places, parts):
            return [
                stack
                for part in parts
                for stack in without_interleaving([images[row] for row in part], places[part].tolist())
            ]
    return [list(members)]


def _intermixed(parts: Sequence[NDArray[np.float64]]) -> bool:
    """Whether slices of one part lie in the usual gaps of another that is even and has as many slices or more."""
    parts = sorted(parts, key=lambda part: float(part[0]))
    for number, first in enumerate(parts):
        for second in parts[number + 1 :]:
            if second[0] > first[-1]:
                break  # so do all that follow
            few, many = sorted((first, second), key=len)
            if _lies_between(few, many) or (len(few) == len(many) and _lies_between(many, few)):
                return True
    return False


def _lies_between(few: NDArray[np.float64], many: NDArray[np.float64]) -> bool:
    if len(many) < 3:
        return False
    gaps = np.diff(many)
    usual = _usual(gaps)
    if (np.abs(gaps - usual) <= 0.2 * usual).mean() <= 0.5:
        return False  # slices here and there, which are no stack
    after = np.searchsorted(many, few)
    inner = after[(after > 0) & (after < many.size)]
    return bool((gaps[inner - 1] <= USUAL_GAP * usual).any())


def _never_one_stack(images: Sequence[Instance], places: NDArray[np.float64], parts: Sequence[Sequence[int]]) -> bool:
    """Whether even parts make an uneven whole, or one whose slices overlap."""
    if any(len(part) < 3 or classify_spacing(places[part].tolist()) for part in parts):
        return False
    thickness = images[0].thickness_mm or 0.0
    return bool(classify_spacing(places.tolist())) or thickness >= OVERLAPPING * _usual(np.diff(places))


def _usual(gaps: NDArray[np.float64]) -> float:
    return float(np.sort(gaps)[(gaps.size - 1) // 2])
