"""Volumes in one file: the same slices as DICOM of the same patient; what is not HU is refused."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel as typed_nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import Outcome, Reason, SliceStore
from medssl_monai.ingest.lookup import find_series
from medssl_monai.ingest.volumes.read import read_volume
from medssl_monai.ingest.volumes.volume import Volume, cut
from medssl_monai.store.verdicts import RejectedError
from tests.ingest.conftest import Ingest, only, rejections, volume
from tests.ingest.dicom_fixtures import KEY, phantom, write_series

nibabel: Any = typed_nibabel  # its calls have no types
RAS_OF_PHANTOM = np.array([[-0.9, 0, 0, 120], [0, -0.7, 0, 90], [0, 0, 2.5, 35], [0, 0, 0, 1.0]])
"""The affine of `write_series`' slices as (column, row, slice)."""


def nifti(path: Path, array: Any, affine: Any = RAS_OF_PHANTOM, slope: float | None = None, inter: float = 0) -> Path:
    image = nibabel.Nifti1Image(array, affine)
    if slope is not None:
        image.header.set_slope_inter(slope, inter)
    nibabel.save(image, path)
    return path


def only_series(store: SliceStore) -> tuple[np.ndarray, dict[str, Any]]:
    assert len(store.series_ids) == 1
    return store.read_series(store.series_ids[0]), store.select()[0]


def test_nifti_and_dicom_of_one_patient_agree(tmp_path: Path, run: Ingest) -> None:
    """The same volume, written as DICOM and as NIfTI in RAS, in LPS and with its axes permuted."""
    hu = phantom()
    write_series(tmp_path / "dicom", hu)
    dicom, dicom_row = only_series(run(tmp_path / "dicom", out="dicom-store")[0])
    lps = nibabel.Nifti1Image(hu.transpose(2, 1, 0), RAS_OF_PHANTOM)
    for axes in ("LPS", "RAS", "RPI", "SLA", "PIR"):
        orientation = nibabel.orientations.axcodes2ornt(tuple(axes))
        turn = nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("LPS"), orientation)
        path = tmp_path / f"{axes}.nii.gz"
        nibabel.save(lps.as_reoriented(turn), path)
        found, row = only_series(run(path, out=axes)[0])
        assert np.array_equal(found, dicom), axes
        assert np.allclose(row["affine"], dicom_row["affine"], atol=1e-4)
        for name in ("plane", "z_mm", "spacing_row_mm", "spacing_column_mm", "slice_spacing_mm", "hu_min", "phash"):
            assert row[name] == pytest.approx(dicom_row[name]), name


@settings(max_examples=60, deadline=None)
@given(
    axes=st.permutations(range(3)),
    flips=st.tuples(*[st.booleans()] * 3),
    tilt=st.floats(-0.4, 0.4),
    spacing=st.tuples(*[st.floats(0.5, 5)] * 3),
)
def test_every_voxel_keeps_its_place(
    axes: list[int], flips: tuple[bool, ...], tilt: float, spacing: tuple[float, ...]
) -> None:
    """By the file's affine before cutting, by the slices' affine after."""
    shape = (2, 3, 4)
    stored = np.arange(24, dtype=np.int16).reshape(shape)
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    signs = [-1 if flip else 1 for flip in flips]
    affine[:3, :3] = (rotation @ np.diag(signs))[:, axes] * np.asarray(spacing)
    affine[:3, 3] = (5, -6, 7)
    slices = cut(Volume(stored, 1.0, 0.0, affine))
    places = {int(v): affine @ [*np.argwhere(stored == v)[0], 1] for v in stored.flat}
    for value, place in places.items():
        z, y, x = np.argwhere(slices.stored == value)[0]
        assert np.allclose(slices.affine @ [x, y, z, 1], place, atol=1e-6)
    assert slices.spacing_mm == pytest.approx(np.linalg.norm(slices.affine[:3, [1, 0]], axis=0))


def test_thick_axis_decides_the_plane() -> None:
    stored = np.zeros((3, 4, 5), np.int16)
    for axis, plane in enumerate(("sagittal", "coronal", "axial")):
        spacing = [1.0, 1.0, 1.0, 1.0]
        spacing[axis] = 4.0
        assert cut(Volume(stored, 1, 0, np.diag(spacing))).orientation.plane == plane
    assert cut(Volume(stored, 1, 0, np.diag([1.4, 1, 1, 1]))).orientation.plane == "axial"


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_types(tmp_path: Path, run: Ingest, dtype: type) -> None:
    """Row 36: float64 HU is rounded."""
    hu = phantom()
    values: np.ndarray = hu.transpose(2, 1, 0).astype(dtype)
    if np.issubdtype(dtype, np.floating):
        values += 0.25
    found, _ = only_series(run(nifti(tmp_path / "a.nii.gz", values))[0])
    assert np.array_equal(found, hu)


def test_slope_and_intercept(tmp_path: Path, run: Ingest) -> None:
    hu = (phantom() // 4) * 4
    stored = ((hu.astype(int) + 1024) // 4).astype(np.uint16).transpose(2, 1, 0)
    path = nifti(tmp_path / "a.nii", stored, slope=4, inter=-1024)
    found, _ = only_series(run(path)[0])
    assert np.array_equal(found, hu)


def test_nan_and_padding(tmp_path: Path, run: Ingest) -> None:
    hu = phantom()
    values = hu.transpose(2, 1, 0).astype(np.float32)
    values[0, 0], values[1, 0] = np.nan, -2048
    store, summary = run(nifti(tmp_path / "a.nii.gz", values))
    found, row = only_series(store)
    assert (found[:, 0, :2] == -1024).all()
    assert np.array_equal(found[:, 1:], hu[:, 1:])
    assert row["flags"] == "non_finite,padded,patient_unknown,undeclared_padding"
    assert summary.verdicts[0].outcome is Outcome.REPAIRED


def windowed() -> np.ndarray:
    return np.clip((phantom().transpose(2, 1, 0) + 160.0) / 400 * 255, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (windowed(), Reason.NOT_HOUNSFIELD),
        (np.abs(phantom()).transpose(2, 1, 0), Reason.NOT_HOUNSFIELD),
        (np.stack([phantom()] * 2, -1), Reason.MULTIVOLUME),
        (np.zeros((4, 4, 4), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), Reason.COLOUR),
    ],
    ids=["windowed", "magnitude", "4D", "colour"],
)
def test_refused(tmp_path: Path, run: Ingest, array: np.ndarray, reason: Reason) -> None:
    nifti(tmp_path / "good.nii.gz", phantom().transpose(2, 1, 0))
    nifti(tmp_path / "odd.nii.gz", array)
    _, summary = run(tmp_path / "good.nii.gz", tmp_path / "odd.nii.gz")
    assert [v.reason for v in summary.verdicts if v.reason] == [reason]
    with pytest.raises(NoImagesError, match=reason.value):
        run(tmp_path / "odd.nii.gz", out="other")


def test_refused_unless_told_otherwise(tmp_path: Path, run: Ingest) -> None:
    path = nifti(tmp_path / "a.nii.gz", windowed())
    store, summary = run(path, assume_hu=True)
    assert np.array_equal(only_series(store)[0], windowed().transpose(2, 1, 0))
    assert summary.verdicts[0].outcome is Outcome.REPAIRED
    store, _ = run(path, out="mr", modality="MR")
    assert only_series(store)[1]["modality"] == "MR"


def test_fractions_do_not_fit(tmp_path: Path, run: Ingest) -> None:
    path = nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).random((5, 5, 5)).astype(np.float32))
    with pytest.raises(NoImagesError, match="VALUE_RANGE"):
        run(path, modality="MR")


def test_broken_files(tmp_path: Path, run: Ingest) -> None:
    good = nifti(tmp_path / "good.nii.gz", phantom().transpose(2, 1, 0))
    (tmp_path / "cut.nii.gz").write_bytes(good.read_bytes()[:-300])
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"no volume"))
    (tmp_path / "text.nrrd").write_text("no volume")
    singular = nibabel.Nifti1Image(phantom().transpose(2, 1, 0), RAS_OF_PHANTOM)
    singular.set_sform(np.diag([1, 1, 0, 1]), 1)
    nibabel.save(singular, tmp_path / "flat.nii")
    store, summary = run(tmp_path)
    assert len(store.series_ids) == 1
    assert [v.reason for v in summary.verdicts if v.reason] == [Reason.UNREADABLE] * 4


def test_same_bytes_twice_and_moved_files(tmp_path: Path, run: Ingest) -> None:
    first = nifti(tmp_path / "a.nii.gz", phantom().transpose(2, 1, 0))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.nii.gz").write_bytes(first.read_bytes())
    store, summary = run(first, tmp_path / "sub")
    assert [v.reason for v in summary.verdicts if v.reason] == [Reason.DUPLICATE]
    for path in (first, tmp_path / "sub" / "b.nii.gz", tmp_path / "sub"):
        assert find_series(store, path, KEY) == store.series_ids[0]
    first.unlink()
    assert run(tmp_path / "sub")[1].added == 0


def test_headers_that_disagree_or_say_nothing(tmp_path: Path, run: Ingest) -> None:
    image = nibabel.Nifti1Image(phantom().transpose(2, 1, 0), RAS_OF_PHANTOM)
    image.set_qform(np.diag([1, 1, 1, 1]), 1)
    nibabel.save(image, tmp_path / "both.nii")
    store, _ = run(tmp_path / "both.nii", out="both")
    assert store.select()[0]["flags"] == "patient_unknown,qform_sform_differ"
    assert np.allclose(store.select()[0]["affine"], RAS_OF_PHANTOM.reshape(-1), atol=1e-4)
    image.set_qform(None, 0)
    image.set_sform(None, 0)
    nibabel.save(image, tmp_path / "none.nii")
    store, _ = run(tmp_path / "none.nii", out="none")
    assert store.select()[0]["flags"] == "orientation_assumed,patient_unknown"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_formats(tmp_path: Path, run: Ingest, suffix: str) -> None:
    hu = phantom()
    image: Any = sitk.GetImageFromArray(hu)
    image.SetSpacing((0.9, 0.7, 2.5))
    image.SetOrigin((-120, -90, 35))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    found, row = only_series(run(tmp_path / f"a{suffix}")[0])
    assert np.array_equal(found, hu)
    assert np.allclose(row["affine"], RAS_OF_PHANTOM.reshape(-1))


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e-3), ("micron", 1e3), ("mm", 1), ("unknown", 1)])
def test_nifti_units(tmp_path: Path, run: Ingest, unit: str, scale: float) -> None:
    """Row 36: spacing, positions and affine in mm, whatever xyzt_units the file has."""
    image = nibabel.Nifti1Image(phantom().transpose(2, 1, 0), np.diag([scale, scale, scale, 1]) @ RAS_OF_PHANTOM)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "a.nii")
    row = only_series(run(tmp_path / "a.nii")[0])[1]
    assert (row["spacing_row_mm"], row["slice_spacing_mm"]) == pytest.approx((0.7, 2.5))
    assert np.allclose(row["affine"], RAS_OF_PHANTOM.reshape(-1), atol=1e-4)


def test_invalid_qform_beside_a_sform(tmp_path: Path, run: Ingest) -> None:
    """A quaternion longer than 1 is no rotation: the sform holds, and the flag says that the two differ."""
    image = nibabel.Nifti1Image(phantom().transpose(2, 1, 0), RAS_OF_PHANTOM)
    image.set_sform(RAS_OF_PHANTOM, 1)
    image.set_qform(RAS_OF_PHANTOM, 1)
    image.header["quatern_b"] = image.header["quatern_c"] = 0.9
    nibabel.save(image, tmp_path / "a.nii")
    store, summary = run(tmp_path / "a.nii")
    assert np.allclose(only_series(store)[1]["affine"], RAS_OF_PHANTOM.reshape(-1))
    assert only(summary).flags == ("patient_unknown", "qform_sform_differ")


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "left-posterior-superior", "nonsense", "LPS"])
def test_nrrd_spaces(tmp_path: Path, space: str) -> None:
    """A space that is not the patient's leaves the orientation assumed; one that is none is refused."""
    sitk.WriteImage(sitk.GetImageFromArray(phantom()), str(tmp_path / "a.nrrd"))
    content = (tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"left-posterior-superior", space.encode()))
    if space == "nonsense":
        with pytest.raises(RejectedError, match="names a space that is not known; correct it to left-posterior"):
            read_volume(tmp_path / "a.nrrd")
        return
    volume = read_volume(tmp_path / "a.nrrd")
    known = space in ("LPS", "left-posterior-superior")
    assert volume.flags == (frozenset() if known else {"orientation_assumed"})
    assert np.array_equal(np.diag(volume.affine), (-1, -1, 1, 1))


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
def test_volumes_whose_data_lie_beside_their_header(tmp_path: Path, run: Ingest, suffix: str, compressed: bool) -> None:
    """Known by both files: two under equal headers are two, a copy is a copy, changed data are read."""
    for seed, folder in enumerate(("a", "b", "c")):
        (tmp_path / "in" / folder).mkdir(parents=True)
        image = sitk.GetImageFromArray(phantom(seed=min(seed, 1)))
        sitk.WriteImage(image, str(tmp_path / "in" / folder / f"ct.1{suffix}"), compressed)
    (tmp_path / "in" / "a" / "other.raw").write_bytes(b"nobody's")
    store, summary = run()
    found = sorted(store.read_series(series_id).tobytes() for series_id in store.series_ids)
    assert found == sorted(phantom(seed=seed).tobytes() for seed in (0, 1))
    assert rejections(summary) == {Reason.DUPLICATE: 2, Reason.NOT_AN_IMAGE_FILE: 1}
    assert sorted(v.files for v in summary.verdicts if v.outcome is Outcome.ACCEPTED) == [2, 2]
    assert run()[1].added == 0
    sitk.WriteImage(sitk.GetImageFromArray(phantom(seed=5)), str(tmp_path / "in" / "a" / f"ct.1{suffix}"), compressed)
    store, summary = run()
    assert summary.added == 1
    assert phantom(seed=5).tobytes() in [store.read_series(series_id).tobytes() for series_id in store.series_ids]
    moved = (tmp_path / "in" / "a").rename(tmp_path / "moved")
    assert find_series(store, moved / f"ct.1{suffix}", KEY) in store.series_ids


def test_data_without_their_header(tmp_path: Path, run: Ingest) -> None:
    """Voxels that start as DICOM may, named by a header that is not among the files."""
    hu = phantom()
    hu[0, 0, 0] = 8
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "ct.mhd"))
    store, summary = run(tmp_path / "ct.mhd")
    assert np.array_equal(volume(store), hu)
    assert only(summary).files == 1
    assert only(run(tmp_path / "ct.mhd", tmp_path / "ct.raw", out="both")[1]).files == 2
    with pytest.raises(NoImagesError, match="whose header is not among the files"):
        run(tmp_path / "ct.raw", out="none")


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("kind", [np.int16, np.int32, np.float64])
def test_itk_formats_as_simpleitk_reads_them(tmp_path: Path, suffix: str, compressed: bool, kind: type) -> None:
    """Values and affine, also of turned axes, in one file and in two."""
    turn = np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]], float)
    image: Any = sitk.GetImageFromArray(phantom().astype(kind))
    image.SetSpacing((0.9, 0.7, 2.5))
    image.SetOrigin((-120, -90, 35))
    image.SetDirection(turn.reshape(-1))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"), compressed)
    volume = read_volume(tmp_path / f"a{suffix}")
    assert volume.stored.dtype == kind
    assert np.array_equal(volume.stored, phantom().transpose(2, 1, 0))
    lps = np.eye(4)
    lps[:3, :3], lps[:3, 3] = turn * (0.9, 0.7, 2.5), (-120, -90, 35)
    assert np.allclose(volume.affine, np.diag([-1, -1, 1, 1]) @ lps)
    assert volume.flags == frozenset()


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ("sizes: 2 2 2\nencoding: raw\ntype: block", "no number"),
        ("sizes: 2 2 0\nencoding: raw\ntype: short", "without voxels"),
        ("sizes: 9999 9999 9999\nencoding: raw\ntype: short", "holds 4 of"),
        ("sizes: 2 2 2\nencoding: raw\ntype: short\ndata file: ../x", "another folder"),
        ("sizes: 2 2 2 3\nencoding: raw\ntype: short", "4 dimensions"),
        ("sizes: 3 2 2\nspace directions: none (1,0,0) (0,1,0)\nencoding: raw\ntype: short", "components"),
    ],
)
def test_nrrd_that_is_refused(tmp_path: Path, header: str, why: str) -> None:
    (tmp_path / "a.nrrd").write_bytes(f"NRRD0004\n{header}\n\n".encode() + b"1234")
    with pytest.raises(RejectedError) as caught:
        read_volume(tmp_path / "a.nrrd")
    assert why in caught.value.detail
