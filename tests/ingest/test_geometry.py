import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.errors import GeometryError
from medssl_monai.ingest.geometry import canonical_orientation, classify_spacing, local_spacing, stack_affine

R, L, A, P, I, S = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))  # noqa: E741


@pytest.mark.parametrize(
    ("columns", "rows", "plane", "transpose", "flip_rows", "flip_columns"),
    [
        (L, P, "axial", False, False, False),
        (R, P, "axial", False, False, True),
        (L, A, "axial", False, True, False),
        (P, L, "axial", True, False, False),
        (A, R, "axial", True, True, True),
        (P, I, "sagittal", False, False, False),
        (A, S, "sagittal", False, True, True),
        (L, I, "coronal", False, False, False),
        (S, R, "coronal", True, True, True),
    ],
)
def test_planes_and_turns(
    columns: tuple[int, ...], rows: tuple[int, ...], plane: str, transpose: bool, flip_rows: bool, flip_columns: bool
) -> None:
    found = canonical_orientation(columns, rows)
    assert (found.plane, found.transpose, found.flip_rows, found.flip_columns) == (
        plane,
        transpose,
        flip_rows,
        flip_columns,
    )


@pytest.mark.parametrize(("degrees", "plane"), [(0, "axial"), (30, "axial"), (45, "oblique"), (60, "coronal")])
def test_tilt_about_the_left_axis(degrees: float, plane: str) -> None:
    angle = np.radians(degrees)
    rows = (0, np.cos(angle), -np.sin(angle))
    assert canonical_orientation(L, rows).plane == plane


@settings(max_examples=100, deadline=None)
@given(
    quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
)
def test_every_pixel_keeps_its_place_in_the_patient(
    quaternion: tuple[float, float, float, float], height: int, width: int
) -> None:
    """A pixel's position by PS3.3 equation C.7.6.2.1-1 before turning equals its position by the affine after."""
    w, x, y, z = np.asarray(quaternion) / np.linalg.norm(quaternion)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    columns, rows, origin, spacing = rotation[:, 0], rotation[:, 1], np.array([3.0, -7.0, 11.0]), (0.5, 0.8)
    orientation = canonical_orientation(columns, rows)
    numbers = np.arange(height * width, dtype=np.int16).reshape(height, width)
    turned = orientation.apply(numbers)
    shape = turned.shape
    spacing_mm = orientation.spacing(spacing)
    corner = orientation.origin(origin, (shape[0], shape[1]), spacing_mm)
    affine = stack_affine(orientation, corner, corner, 1, spacing_mm, 1.0)
    for r in range(height):
        for c in range(width):
            lps = origin + columns * spacing[1] * c + rows * spacing[0] * r
            r_new, c_new = np.argwhere(turned == numbers[r, c])[0]
            assert np.allclose((affine @ [c_new, r_new, 0, 1])[:3], lps * (-1, -1, 1), atol=1e-9)
    assert np.linalg.det(affine[:3, :3]) != 0


def test_turned_axes_point_to_the_canonical_directions() -> None:
    axial = canonical_orientation(A, R)
    assert np.array_equal([axial.column_direction, axial.row_direction, axial.slice_direction], np.eye(3))


@pytest.mark.parametrize(
    ("columns", "rows"), [((0, 0, 0), (0, 0, 0)), ((1, 0, 0), (1, 0, 0)), ((2, 0, 0), (0, 1, 0)), ((1, 0, np.nan), P)]
)
def test_no_axes(columns: tuple[float, ...], rows: tuple[float, ...]) -> None:
    with pytest.raises(GeometryError, match="unit vectors at right angles"):
        canonical_orientation(columns, rows)


def test_gantry_shear_is_in_the_affine() -> None:
    axial = canonical_orientation(L, P)
    affine = stack_affine(axial, (0, 0, 0), (0, 8, 20), 5, (1, 1), 1.0)
    assert np.allclose(affine[:3, 2], (0, -2, 5))


@pytest.mark.parametrize(
    ("depths", "numbers", "thickness", "flags"),
    [
        ([0, 1, 2, 3, 4], None, None, set()),
        ([0, 1.02, 2, 2.99, 4], None, None, set()),
        ([0, 1, 3, 4, 5], None, None, {"gap"}),
        ([0, 1, 3], None, None, {"gap"}),
        ([0, 1, 3, 4, 5], [5, 4, 2, 1, 0], None, {"gap"}),
        # both neighbours are gone too: only the numbers tell
        ([0, 2, 4, 5, 6, 7], [0, 2, 4, 5, 6, 7], None, {"gap", "variable_spacing"}),
        ([0, 2.5, 5, 7.5, 12.5, 17.5, 22.5], None, None, {"variable_spacing"}),
        ([0, 2.5, 5, 7.5, 12.5], [1, 2, 3, 4, 5], [2.5, 2.5, 2.5, 2.5, 5.0], {"variable_spacing"}),
        ([0, 5], None, None, set()),
        ([0], None, None, set()),
    ],
)
def test_gaps_are_told_from_variable_spacing(
    depths: list[float], numbers: list[int | None] | None, thickness: list[float | None] | None, flags: set[str]
) -> None:
    found = classify_spacing(depths, numbers, thickness)
    assert "gap" in found if "gap" in flags else found == flags


def test_local_spacing_repeats_the_last() -> None:
    assert local_spacing([0, 2, 5]) == [2, 3, 3]
    assert local_spacing([7]) == []
