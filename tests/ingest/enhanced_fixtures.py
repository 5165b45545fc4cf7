"""Writes enhanced CT objects: many frames in one file, described by functional groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from tests.ingest.dicom_fixtures import AXIAL, dataset, write

ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"


def group(**values: Any) -> Dataset:
    """A data set with these values; a Dataset becomes a sequence of one item."""
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, DicomSequence([value]) if isinstance(value, Dataset) else value)
    return item


def write_enhanced(
    path: Path,
    frames: np.ndarray,
    positions: Sequence[Sequence[float]],
    *,
    orientations: Sequence[Sequence[float]] | None = None,
    slopes: Sequence[float] | None = None,
    intercepts: Sequence[float] | None = None,
    stacks: Sequence[str] | None = None,
    types: Sequence[list[str]] | None = None,
    series: str = "enhanced",
) -> Path:
    """An enhanced CT; spacing is shared, all else by frame; `frames` (n, H, W) are stored values."""
    count = len(frames)
    image = dataset(frames[0], series=series, name=path.name, SOPClassUID=ENHANCED_CT, NumberOfFrames=count)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope"):
        delattr(image, keyword)
    del image.RescaleIntercept
    shared = group(
        PixelMeasuresSequence=group(PixelSpacing=[0.7, 0.9], SliceThickness=2.5),
        FrameVOILUTSequence=group(WindowCenter=40, WindowWidth=400),
        CTReconstructionSequence=group(ConvolutionKernel="B30f"),
    )
    image.SharedFunctionalGroupsSequence = DicomSequence([shared])
    items = []
    for i in range(count):
        items.append(
            group(
                PlanePositionSequence=group(ImagePositionPatient=list(positions[i])),
                PlaneOrientationSequence=group(
                    ImageOrientationPatient=list(orientations[i] if orientations else AXIAL)
                ),
                PixelValueTransformationSequence=group(
                    RescaleSlope=slopes[i] if slopes else 1,
                    RescaleIntercept=intercepts[i] if intercepts else -1024,
                    RescaleType="HU",
                ),
                CTImageFrameTypeSequence=group(FrameType=types[i] if types else ["ORIGINAL", "PRIMARY", "VOLUME"]),
                FrameContentSequence=group(StackID=stacks[i] if stacks else "1", InStackPositionNumber=i + 1),
            )
        )
    image.PerFrameFunctionalGroupsSequence = DicomSequence(items)
    image.PixelData = frames.astype("<u2").tobytes()
    return write(image, path)
