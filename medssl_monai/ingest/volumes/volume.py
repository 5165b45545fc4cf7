"""Volumes in one file (NIfTI, NRRD, MetaImage): cut into the same slices that DICOM of the same patient gives.

A volume is cut across the axis nearest to superior; or, where one axis is sampled at least 1.5 times as coarsely as
both others, across that one, which is how thick sagittal and coronal series look.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.errors import GeometryError
from medssl_monai.ingest.geometry import Orientation, canonical_orientation, stack_affine
from medssl_monai.ingest.hounsfield import (
    LOWERED_BY,
    clip_to_int16,
    needs_lowering,
    not_hounsfield,
    rescale,
    to_slice,
)
from medssl_monai.store.records import SliceRecord
from medssl_monai.store.verdicts import Reason, RejectedError

COARSER = 1.5
SAMPLE_VOXELS = 4_000_000


@dataclass(frozen=True)
class Volume:
    """A volume as read.

    Attributes:
        stored: (x, y, z), any numeric type.
        slope, intercept: values are slope * stored + intercept.
        affine: (4, 4), voxel index to RAS mm.
        flags: see `verdicts.FLAGS`.
    """

    stored: NDArray[Any]
    slope: float
    intercept: float
    affine: NDArray[np.float64]
    flags: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Cut:
    """A volume cut into canonical slices.

    Attributes:
        stored: (slices, H, W), a view.
        orientation: plane and directions of the slices; already applied.
        spacing_mm: (row, column).
        step_mm: distance between slices.
        affine: (4, 4) RAS, of the grid (column, row, slice).
    """

    volume: Volume
    stored: NDArray[Any]
    orientation: Orientation
    spacing_mm: tuple[float, float]
    step_mm: float
    affine: NDArray[np.float64]
    flags: frozenset[str]

    def slices(self, modality: str) -> Iterator[SliceRecord]:
        """The slices in order; HU for CT, rounded values otherwise."""
        _, height, width = self.stored.shape
        lowered = modality != "CT" and self._needs_lowering()
        for number, stored in enumerate(self.stored):
            values = rescale(stored, self.volume.slope, self.volume.intercept)
            if modality == "CT":
                pixels, flags = to_slice(values)
            else:
                finite = np.nan_to_num(values) if values.dtype.kind == "f" else values
                pixels, clipped = clip_to_int16(finite.astype(np.int64) - LOWERED_BY if lowered else finite)
                flags = frozenset(["clipped"] * clipped + ["lowered"] * lowered)
            centre = self.affine @ [(width - 1) / 2, (height - 1) / 2, number, 1]
            yield SliceRecord(pixels, float(centre[2]), self.spacing_mm, self.step_mm, flags=flags)

    def _needs_lowering(self) -> bool:
        if self.stored.dtype.kind not in "iu" or not float(self.volume.slope).is_integer():
            return False
        ends = rescale(np.array([self.stored.min(), self.stored.max()]), self.volume.slope, self.volume.intercept)
        return needs_lowering(float(ends.min()), float(ends.max()))


def check_values(volume: Volume, modality: str, assume_hu: bool) -> None:
    """Refuses what would lose its meaning in a store.

    Raises:
        RejectedError: CT that is not in HU, unless `assume_hu`; other modalities with fractions between so few whole
            numbers that rounding would flatten them.
    """
    stride = max(1, int(np.ceil((volume.stored.size / SAMPLE_VOXELS) ** (1 / 3))))
    sample = rescale(volume.stored[::stride, ::stride, ::stride], volume.slope, volume.intercept)
    if modality == "CT":
        why = "" if assume_hu else not_hounsfield(sample)
        if why:
            raise RejectedError(
                Reason.NOT_HOUNSFIELD,
                f"its values are not Hounsfield units: {why}; name its modality, or give `--assume-hu` "
                "(`assume_hu=True`) where they are",
            )
        return
    finite = sample[np.isfinite(sample)] if sample.dtype.kind == "f" else sample
    fractions = finite.dtype.kind == "f" and finite.size and bool((finite != np.rint(finite)).any())
    if fractions and float(finite.max() - finite.min()) < 256:
        raise RejectedError(
            Reason.VALUE_RANGE,
            f"its values ({finite.min():g} to {finite.max():g}) are fractions that whole numbers cannot hold; "
            "rescale them to some thousand steps",
        )


def cut(volume: Volume) -> Cut:
    """The volume in canonical slices.

    Raises:
        GeometryError: the affine is singular.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    axes = lps[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    if not np.isfinite(lps).all() or not (spacing > 0).all() or abs(np.linalg.det(axes / spacing)) < 1e-3:
        raise GeometryError("affine: its axes do not span space; correct the header")
    directions = axes / spacing
    across = _slice_axis(directions, spacing)
    columns, rows = (axis for axis in range(3) if axis != across)
    stored = volume.stored.transpose(across, rows, columns)
    # The in-plane axes, made orthogonal: a sheared affine has no exact slices, and says so below.
    column_direction = directions[:, columns]
    row_direction = directions[:, rows] - (directions[:, rows] @ column_direction) * column_direction
    orientation = canonical_orientation(column_direction, row_direction / np.linalg.norm(row_direction))
    reverse = bool(directions[:, across] @ np.asarray(orientation.slice_direction) < 0)
    if reverse:
        stored = stored[::-1]
    if orientation.transpose:
        stored = stored.transpose(0, 2, 1)
    stored = stored[:, :: -1 if orientation.flip_rows else 1, :: -1 if orientation.flip_columns else 1]
    spacing_mm = orientation.spacing((float(spacing[rows]), float(spacing[columns])))
    count, height, width = stored.shape
    step = axes[:, across] * (-1 if reverse else 1)
    first = lps[:3, 3] + (axes[:, across] * (count - 1) if reverse else 0)
    first = orientation.origin(first, (height, width), spacing_mm)
    affine = stack_affine(orientation, first, first + step * (count - 1), count, spacing_mm, float(spacing[across]))
    skew = np.abs(directions.T @ directions - np.eye(3)).max() > 0.01
    return Cut(
        volume,
        stored,
        orientation,
        spacing_mm,
        float(spacing[across]),
        affine,
        volume.flags | (frozenset({"sheared"}) if skew else frozenset()),
    )


def _slice_axis(directions: NDArray[np.float64], spacing: NDArray[np.float64]) -> int:
    """The axis to cut across: a clearly coarsest one, else the one nearest to superior."""
    order = np.argsort(spacing)
    if spacing[order[2]] >= COARSER * spacing[order[1]]:
        return int(order[2])
    return int(np.argmax(np.abs(directions[2])))
