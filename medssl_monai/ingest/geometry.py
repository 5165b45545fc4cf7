"""Where slices lie in the patient: planes, the canonical orientation of slices, their order, gaps, and the affine.

Directions and positions are DICOM's patient coordinates, LPS, in mm (PS3.3 C.7.6.2.1.1): x grows to the patient's
Left, y to Posterior, z to Superior. Affines are RAS, as in NIfTI and MONAI.

Canonical orientation, by plane (row index grows towards; column index grows towards; slices are counted towards):

    axial      Posterior   Left        Superior
    sagittal   Inferior    Posterior   Right
    coronal    Inferior    Left        Posterior
    oblique    as the nearest of the three
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medssl_monai.errors import GeometryError

Vector = NDArray[np.float64]

_FRAMES: dict[str, tuple[Vector, Vector, Vector]] = {
    # plane: directions in LPS of the column index, the row index, the slice index
    "axial": (np.array([1.0, 0, 0]), np.array([0, 1.0, 0]), np.array([0, 0, 1.0])),
    "sagittal": (np.array([0, 1.0, 0]), np.array([0, 0, -1.0]), np.array([-1.0, 0, 0])),
    "coronal": (np.array([1.0, 0, 0]), np.array([0, 0, -1.0]), np.array([0, 1.0, 0])),
}

PLANE_COSINE = 0.8
"""A plane keeps its name up to 37 degrees off: gantries tilt by 30 at most."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Orientation:
    """How a stored slice becomes a canonical one, and where its axes then point.

    Attributes:
        plane: axial, sagittal, coronal or oblique.
        transpose: rows and columns change places first.
        flip_rows, flip_columns: applied after the transposition.
        column_direction, row_direction, slice_direction: unit vectors in LPS, after both.
    """

    plane: str
    transpose: bool
    flip_rows: bool
    flip_columns: bool
    column_direction: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    slice_direction: tuple[float, float, float]

    def apply(self, pixels: NDArray[np.int16]) -> NDArray[np.int16]:
        """(H, W) as stored to canonical, a view."""
        turned = pixels.T if self.transpose else pixels
        return turned[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1]

    def spacing(self, spacing_mm: tuple[float, float]) -> tuple[float, float]:
        """(row, column) spacing as stored to canonical."""
        return (spacing_mm[1], spacing_mm[0]) if self.transpose else spacing_mm

    def origin(self, position: ArrayLike, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> Vector:
        """The LPS position of the canonical pixel (0, 0), from that of the stored one.

        Args:
            position: ImagePositionPatient, mm.
            shape: (H, W), canonical.
            spacing_mm: (row, column), canonical.
        """
        corner = np.asarray(position, np.float64).copy()
        if self.flip_columns:
            corner -= np.asarray(self.column_direction) * spacing_mm[1] * (shape[1] - 1)
        if self.flip_rows:
            corner -= np.asarray(self.row_direction) * spacing_mm[0] * (shape[0] - 1)
        return corner


def canonical_orientation(column_direction: ArrayLike, row_direction: ArrayLike) -> Orientation:
    """How slices with these axes become canonical.

    Args:
        column_direction: LPS vector along which the column index grows (ImageOrientationPatient, first three).
        row_direction: LPS vector along which the row index grows (the last three).

    Raises:
        GeometryError: the vectors are not unit vectors at right angles (PS3.3 C.7.6.2.1.1), within 1 %.
    """
    columns, rows = np.asarray(column_direction, np.float64), np.asarray(row_direction, np.float64)
    lengths = np.linalg.norm(columns), np.linalg.norm(rows)
    if not (np.isfinite(lengths).all() and np.allclose(lengths, 1, atol=0.01) and abs(columns @ rows) < 0.01):
        raise GeometryError(
            "image orientation: needs two unit vectors at right angles, found lengths "
            f"{lengths[0]:.3g} and {lengths[1]:.3g}, cosine {columns @ rows:.3g}; correct the orientation tag"
        )
    normal = np.cross(columns, rows)
    plane, cosine = max(
        ((name, abs(float(normal @ frame[2]))) for name, frame in _FRAMES.items()), key=lambda item: item[1]
    )
    to_columns, to_rows, to_slices = _FRAMES[plane]
    straight = abs(columns @ to_columns) + abs(rows @ to_rows)
    transposed = abs(columns @ to_rows) + abs(rows @ to_columns)
    transpose = bool(transposed > straight)
    if transpose:
        columns, rows = rows, columns
    flip_columns, flip_rows = bool(columns @ to_columns < 0), bool(rows @ to_rows < 0)
    return Orientation(
        plane=plane if cosine >= PLANE_COSINE else "oblique",
        transpose=transpose,
        flip_rows=flip_rows,
        flip_columns=flip_columns,
        column_direction=_tuple(-columns if flip_columns else columns),
        row_direction=_tuple(-rows if flip_rows else rows),
        slice_direction=_tuple(normal if normal @ to_slices > 0 else -normal),
    )


def stack_affine(
    orientation: Orientation,
    first: ArrayLike,
    last: ArrayLike,
    count: int,
    spacing_mm: tuple[float, float],
    step: float,
) -> NDArray[np.float64]:
    """RAS affine (4, 4) of the voxel grid (x = column, y = row, z = slice).

    The slice axis runs from the first slice to the last, so that a tilted gantry's shear is in it.

    Args:
        orientation: of the slices.
        first, last: LPS positions of the canonical pixel (0, 0) of the first and last slice, mm.
        count: number of slices.
        spacing_mm: (row, column), canonical.
        step: distance in mm to the next slice, for a single slice.
    """
    first, last = np.asarray(first, np.float64), np.asarray(last, np.float64)
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(orientation.column_direction) * spacing_mm[1]
    affine[:3, 1] = np.asarray(orientation.row_direction) * spacing_mm[0]
    affine[:3, 2] = (last - first) / (count - 1) if count > 1 else np.asarray(orientation.slice_direction) * step
    affine[:3, 3] = first
    return np.asarray(LPS_TO_RAS @ affine + 0.0)  # + 0.0 turns -0.0 into 0.0


def shear_degrees(orientation: Orientation, first: ArrayLike, last: ArrayLike) -> float:
    """The angle between the way from the first slice to the last and the slices' normal: the tilt of the gantry."""
    way = np.asarray(last, np.float64) - np.asarray(first, np.float64)
    length = float(np.linalg.norm(way))
    if length == 0:
        return 0.0
    cosine = float(way @ np.asarray(orientation.slice_direction)) / length
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def off_line_mm(positions: ArrayLike, depths: ArrayLike) -> float:
    """How far a position lies at most, in mm, from the line between the first and the last, which an affine follows.

    Args:
        positions: (N, 3) LPS, mm.
        depths: (N,) along the slice direction, mm, increasing.
    """
    places, along = np.asarray(positions, np.float64), np.asarray(depths, np.float64)
    if len(along) < 3 or along[-1] == along[0]:
        return 0.0
    share = (along - along[0]) / (along[-1] - along[0])
    line = places[0] + share[:, None] * (places[-1] - places[0])
    return float(np.linalg.norm(places - line, axis=1).max())


def local_spacing(depths: Sequence[float]) -> list[float]:
    """Distance of each slice to the next one, in mm; of the last to the one before. Empty for fewer than two."""
    gaps = np.diff(np.asarray(depths, np.float64))
    return [*gaps.tolist(), float(gaps[-1])] if gaps.size else []


def classify_spacing(
    depths: Sequence[float],
    numbers: Sequence[int | None] | None = None,
    thickness_mm: Sequence[float | None] | None = None,
) -> set[str]:
    """`gap` where inner slices are missing, `variable_spacing` where distances change on purpose, or nothing.

    A distance is unusual where it exceeds the usual one by a tenth and 0.02 mm; less is rounding. It is a gap if the
    instance numbers jump over it, or if it stands alone between smaller ones and the slices are not as thick as it is
    wide. Otherwise the spacing is variable (a head protocol of 2.5 and 5 mm).

    Args:
        depths: positions along the slice direction, mm, increasing.
        numbers: InstanceNumber of each slice, in the same order; ignored unless present, distinct and monotonic.
        thickness_mm: SliceThickness of each slice.
    """
    gaps = np.diff(np.asarray(depths, np.float64))
    if gaps.size < 2:
        return set()
    usual = float(np.sort(gaps)[(gaps.size - 1) // 2])
    tolerance = 0.1 * usual + 0.02
    flags: set[str] = set()
    steps = _number_steps(numbers)
    for i in np.flatnonzero(np.abs(gaps - usual) > tolerance).tolist():
        neighbours = gaps[[j for j in (i - 1, i + 1) if 0 <= j < gaps.size]]
        alone = bool((gaps[i] > 1.5 * neighbours).all())
        jumped = steps is not None and steps[i] > 1
        pair = [t for t in (thickness_mm or ())[i : i + 2] if t]
        as_thick = bool(pair) and max(pair) >= 0.9 * gaps[i]
        missing = gaps[i] > 1.5 * float(neighbours.min()) and (jumped or (alone and not as_thick))
        flags.add("gap" if missing else "variable_spacing")
    return flags


def _number_steps(numbers: Sequence[int | None] | None) -> NDArray[np.int64] | None:
    """Jumps of the instance number in units of the usual jump; None where the numbers say nothing."""
    if numbers is None or any(number is None for number in numbers):
        return None
    steps = np.diff(np.asarray(numbers, np.int64))
    if not ((steps > 0).all() or (steps < 0).all()):
        return None
    steps = np.abs(steps)
    return np.asarray(steps // max(1, int(np.median(steps))))


def _tuple(vector: Vector) -> tuple[float, float, float]:
    x, y, z = (float(value) + 0.0 for value in vector)
    return x, y, z
