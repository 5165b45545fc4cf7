from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from monai.data.image_reader import NibabelReader
from monai.transforms.io.array import LoadImage

from medssl_monai.errors import GeometryError, InputError, NoImagesError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.monai_reader import SimpleITKReader
from tests.ingest.dicom_fixtures import KEY, axial_positions, dataset, phantom, uid, write, write_series
from tests.ingest.enhanced_fixtures import write_enhanced

# LoadImage makes every reader that MONAI knows, wanted or not; this one warns where NVIDIA's decoder is not installed.
pytestmark = pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader:UserWarning")

RAS = np.array([[-0.9, 0, 0, 120], [0, -0.7, 0, 90], [0, 0, 2.5, 35], [0, 0, 0, 1.0]])


def load(path: Any, channel_first: bool = False, **options: Any) -> Any:
    return LoadImage(SimpleITKReader(**options), image_only=True, ensure_channel_first=channel_first)(path)


def save_nifti(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    library: Any = nibabel  # its calls have no types
    library.save(library.Nifti1Image(array, affine), path)


def oblique() -> np.ndarray:
    a, b = 0.3, -0.2
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-0.9, 0.7, 2.5])
    affine[:3, 3] = (12, -34, 56)
    return affine


@pytest.mark.parametrize("affine", [RAS, oblique(), np.diag([2.0, 3.0, 4.0, 1.0])], ids=["lps", "oblique", "ras"])
def test_agrees_with_nibabel(tmp_path: Path, affine: np.ndarray) -> None:
    save_nifti(tmp_path / "a.nii.gz", phantom().transpose(2, 1, 0), affine)
    ours = load(tmp_path / "a.nii.gz", channel_first=True)
    theirs = LoadImage(NibabelReader(), image_only=True, ensure_channel_first=True)(tmp_path / "a.nii.gz")
    assert np.array_equal(ours, theirs)
    assert np.allclose(ours.affine, theirs.affine, atol=1e-5)
    assert np.allclose(ours.pixdim, theirs.pixdim, atol=1e-5)


def test_nifti_with_channels(tmp_path: Path) -> None:
    array = np.stack([phantom(seed=seed).transpose(2, 1, 0) for seed in (1, 2)], -1)
    save_nifti(tmp_path / "a.nii.gz", array, RAS)
    ours = load(tmp_path / "a.nii.gz", channel_first=True)
    theirs = LoadImage(NibabelReader(), image_only=True, ensure_channel_first=True)(tmp_path / "a.nii.gz")
    assert ours.shape == (2, 16, 20, 6)
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    image: Any = sitk.GetImageFromArray(phantom())
    image.SetSpacing((0.9, 0.7, 2.5))
    image.SetOrigin((-120, -90, 35))
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    loaded = load(tmp_path / f"a{suffix}")
    assert np.array_equal(loaded, phantom().transpose(2, 1, 0))
    assert np.allclose(loaded.affine, RAS, atol=1e-5)


def test_series_is_sorted_by_position(tmp_path: Path) -> None:
    names = ["c", "a", "f", "e", "b", "d"]
    write_series(tmp_path / "in", phantom(), names=names, number=None)
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    loaded = load(tmp_path / "in", channel_first=True)
    assert np.array_equal(loaded[0], phantom().transpose(2, 1, 0))
    assert np.allclose(loaded.affine, RAS, atol=1e-5)


def test_gantry_tilt_is_in_the_affine(tmp_path: Path) -> None:
    write_series(tmp_path / "in", phantom(), positions=[(0, 0.8 * i, 2.5 * i) for i in range(6)])
    loaded = load(tmp_path / "in")
    assert np.allclose(loaded.affine[:3, 2], (0, -0.8, 2.5))


def test_single_file(tmp_path: Path) -> None:
    path = write_series(tmp_path / "in", phantom())[2]
    loaded = load(path)
    assert np.array_equal(loaded[:, :, 0], phantom()[2].T)
    assert np.allclose(loaded.affine[:3, 3], (120, 90, 40))


def test_files_as_channels(tmp_path: Path) -> None:
    paths = []
    for seed in (1, 2):
        save_nifti(tmp_path / f"{seed}.nii.gz", phantom(seed=seed).transpose(2, 1, 0), RAS)
        paths.append(tmp_path / f"{seed}.nii.gz")
    loaded = load(paths, channel_first=True)
    assert np.array_equal(loaded, np.stack([phantom(seed=seed).transpose(2, 1, 0) for seed in (1, 2)]))
    save_nifti(paths[1], phantom().transpose(2, 1, 0), np.eye(4))
    with pytest.raises(GeometryError, match="shape or affine differ"):
        SimpleITKReader().get_data(SimpleITKReader().read(paths))


def test_several_series(tmp_path: Path) -> None:
    for seed, series in enumerate(("one", "two")):
        names = [f"{series}-{i}" for i in range(6)]
        write_series(tmp_path / "in", phantom(seed=seed), series=series, names=names)
    with pytest.raises(InputError, match=r"holds 2 DICOM series, needs one; .* or pass series_uid"):
        SimpleITKReader().read(tmp_path / "in")
    loaded = load(tmp_path / "in", series_uid=uid("two"))
    assert np.array_equal(loaded, phantom(seed=1).transpose(2, 1, 0))


def test_refuses_what_is_no_volume(tmp_path: Path) -> None:
    write_series(tmp_path / "gap", phantom())[3].unlink()
    with pytest.raises(GeometryError, match=r"no regular volume \(gap\)"):
        SimpleITKReader().read(tmp_path / "gap")
    assert load(tmp_path / "gap", allow_irregular=True).shape == (16, 20, 5)
    write_series(tmp_path / "jump", phantom(3), positions=[(0, 0, 0), (50, 0, 2), (0, 0, 4)])
    with pytest.raises(GeometryError, match=r"no regular volume \(position jumps\)"):
        SimpleITKReader().read(tmp_path / "jump")
    write_series(tmp_path / "two", phantom(), names=[f"a{i}" for i in range(6)])
    write(dataset(np.zeros((5, 5), np.uint16), name="other"), tmp_path / "two" / "other")
    with pytest.raises(GeometryError, match="is 2 stacks"):
        SimpleITKReader().read(tmp_path / "two")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoImagesError, match="no DICOM image"):
        SimpleITKReader().read(tmp_path / "empty")
    (tmp_path / "text.nii").write_text("no")
    with pytest.raises(InputError, match="SimpleITK cannot read it"):
        SimpleITKReader().read(tmp_path / "text.nii")


def test_suffixes(tmp_path: Path) -> None:
    path = write_series(tmp_path, phantom(1), names=["bare"])[0]
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    reader = SimpleITKReader()
    assert all(reader.verify_suffix(name) for name in (path, tmp_path, "a.nii.gz", ["a.dcm", "b.nrrd"]))
    assert not reader.verify_suffix(tmp_path / "picture.png")
    assert not reader.verify_suffix("missing")


REFUSED: dict[str, Any] = {
    "gap": lambda folder: write_series(folder, phantom())[3].unlink(),
    "two phases": lambda folder: write_phases(folder),
    "not in HU": lambda folder: write_series(folder, phantom() + np.int16(1000)),
    "a scout": lambda folder: write_series(folder, phantom(1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "no rescale": lambda folder: write_series(folder, phantom(), intercept=None),
    "no positions": lambda folder: write_no_positions(folder),
}


def write_no_positions(folder: Path) -> None:
    for i in range(6):
        image = dataset((phantom()[i] + 1024).astype(np.uint16), position=None, orientation=None, name=i, number=i)
        write(image, folder / str(i))


def write_phases(folder: Path) -> None:
    for phase in (1, 2):
        for i, position in enumerate(axial_positions(6)):
            stored = (phantom(seed=phase)[i] + 1024).astype(np.uint16)
            image = dataset(stored, position=position, name=(phase, i), AcquisitionNumber=phase)
            write(image, folder / f"{phase}-{i}")


@pytest.mark.parametrize("by", ["class", "name", "instance", "last of several", "at run time"])
@pytest.mark.parametrize("kind", REFUSED)
def test_monai_asks_no_other_reader(tmp_path: Path, kind: str, by: str) -> None:
    """What ingestion refuses or parts, LoadImage does not read by one of MONAI's own readers."""
    REFUSED[kind](tmp_path / "in")
    readers: dict[str, Any] = {
        "class": SimpleITKReader,
        "name": "SimpleITKReader",
        "instance": SimpleITKReader(),
        "last of several": ["PydicomReader", SimpleITKReader()],
        "at run time": None,
    }
    load = LoadImage(readers[by], image_only=True)
    with pytest.raises(InputError):
        load(tmp_path / "in", reader=SimpleITKReader()) if by == "at run time" else load(tmp_path / "in")


def test_it_is_no_default(tmp_path: Path) -> None:
    """The name is known; who names no reader gets MONAI's own."""
    assert not any(isinstance(reader, SimpleITKReader) for reader in LoadImage().readers)


def test_enhanced_objects_are_read_as_ingestion_reads_them(tmp_path: Path) -> None:
    """Frames in the order of space, each with its own rescale."""
    hu, order = phantom(4), (2, 0, 3, 1)
    intercepts = [-1024, -8192, -1024, -2000]
    stored = np.stack([(hu[i].astype(int) - intercepts[k]).astype(np.uint16) for k, i in enumerate(order)])
    positions = [axial_positions(4)[i] for i in order]
    path = write_enhanced(tmp_path / "in" / "e", stored, positions, intercepts=intercepts)
    for source in (path, tmp_path / "in"):
        loaded = load(source)
        assert np.array_equal(loaded, hu.transpose(2, 1, 0))
        assert np.allclose(
            loaded.affine, np.array([[-0.9, 0, 0, 120], [0, -0.7, 0, 90], [0, 0, 2.5, 35], [0, 0, 0, 1]])
        )


def test_the_same_values_as_in_a_store(tmp_path: Path) -> None:
    """Padding, fractions, values beyond int16: by the same code."""
    hu = phantom()
    hu[:, :3] = -2000
    write_series(tmp_path / "in", hu, PixelPaddingValue=0)
    for path in (tmp_path / "in").iterdir():
        image = pydicom.dcmread(path)
        image.RescaleSlope, image.PixelRepresentation = "1.5", 1
        write(image, path)
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    store = SliceStore(tmp_path / "store")
    assert np.array_equal(load(tmp_path / "in"), store.read_series(store.series_ids[0]).transpose(2, 1, 0))
    assert load(tmp_path / "in").min() == -1024


def test_no_positions_in_the_order_of_ingestion(tmp_path: Path) -> None:
    write_no_positions(tmp_path / "in")
    loaded = load(tmp_path / "in", allow_irregular=True)
    assert np.array_equal(loaded, phantom().transpose(2, 1, 0))
    assert loaded.affine[2, 2] == 2.5
