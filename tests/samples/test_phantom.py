import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medssl_monai.atomic import file_sha256
from medssl_monai.errors import InputError
from medssl_monai.samples.anatomy import ORGANS, REGIONS
from medssl_monai.samples.phantom import PhantomPatient, make_patient, write_phantom
from medssl_monai.samples.segmentation import write_segmentation


def _digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom"), patients=4, seed=5, size=48, slices=9)


@pytest.mark.parametrize(("size", "slices"), [(128, 32), (33, 3), (96, 24)])
def test_a_patient_is_a_ct_with_every_region(size: int, slices: int) -> None:
    patient = make_patient(2, seed=1, size=size, slices=slices)
    assert patient.volume.shape == patient.lesion_mask.shape == (slices, size, size)
    assert patient.volume.dtype == np.int16
    assert patient.volume.min() >= -1024 and patient.volume.max() <= 3071
    assert list(dict.fromkeys(patient.labels)) == list(REGIONS)  # in one run each, from inferior to superior
    np.testing.assert_array_equal(patient.lesion, patient.lesion_mask.any(axis=(1, 2)))
    assert 300 < patient.spacing_mm[1] * size < 520


def test_the_same_arguments_give_the_same_voxels_and_others_do_not() -> None:
    first, again = make_patient(0, seed=3, size=40, slices=6), make_patient(0, seed=3, size=40, slices=6)
    np.testing.assert_array_equal(first.volume, again.volume)
    for other in (make_patient(1, seed=3, size=40, slices=6), make_patient(0, seed=4, size=40, slices=6)):
        assert (first.volume != other.volume).mean() > 0.3


def test_lesions_lie_on_their_own_side_and_the_table_behind() -> None:
    """Column 0 is the patient's right (liver), row 0 is anterior."""
    sides = defaultdict(list)
    for index in range(8):
        patient = make_patient(index, seed=0, size=64, slices=16)
        for region, mask in zip(patient.labels, patient.lesion_mask, strict=True):
            if mask.any():
                sides[region].append(np.argwhere(mask)[:, 1].mean())
        dense = patient.volume > -600
        assert dense[:, 58:, :].mean() > dense[:, :6, :].mean()
    assert max(sides["abdomen_pelvis"]) < 32 < min(sides["thorax"])


def test_organs_lie_where_they_belong() -> None:
    regions = {"heart": "thorax", "liver": "abdomen_pelvis", "spleen": "abdomen_pelvis", "brain": "head"}
    regions |= {"kidneys": "abdomen_pelvis", "bladder": "abdomen_pelvis"}
    seen = set()
    for index in range(6):
        patient = make_patient(index, seed=0, size=64, slices=24)
        assert patient.organ_mask.shape == patient.volume.shape and patient.organ_mask.max() < len(ORGANS)
        columns = {}
        for value, organ in enumerate(ORGANS[1:], start=1):
            inside = patient.organ_mask == value
            if inside.any():
                seen.add(organ)
                columns[organ] = np.argwhere(inside)[:, 2].mean()
            if organ in regions:
                found = {patient.labels[number] for number in np.flatnonzero(inside.any(axis=(1, 2)))}
                assert found <= {regions[organ]}, organ
        assert columns["liver"] < columns["heart"] < columns["spleen"]
        air, soft = patient.volume[patient.organ_mask == 1], patient.volume[patient.organ_mask == 3]
        assert np.median(air) < -300 < -100 < np.median(soft)
    assert seen == set(ORGANS[1:])


def test_a_segmentation_data_set_has_the_patients_in_their_orientation(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "a", patients=3, seed=5, size=32, slices=6)
    listed = json.loads(path.read_text(encoding="utf-8"))
    assert tuple(listed["labels"].values()) == ORGANS
    assert [len(listed[key]) for key in ("training", "validation")] == [2, 1]
    patient = make_patient(2, seed=5, size=32, slices=6)
    for name, volume in (("image", patient.volume), ("label", patient.organ_mask)):
        image: Any = nibabel.load(path.parent / listed["validation"][0][name])
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")  # type: ignore[no-untyped-call]
        np.testing.assert_allclose(image.header.get_zooms(), np.array(patient.spacing_mm[::-1]), rtol=1e-6)
        np.testing.assert_array_equal(np.asanyarray(image.dataobj).transpose(2, 1, 0), volume)
    write_segmentation(tmp_path / "b", patients=3, seed=5, size=32, slices=6)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    with pytest.raises(InputError, match="at least two patients"):
        write_segmentation(tmp_path / "c", patients=1, seed=5)


@pytest.mark.parametrize("changes", [{"size": 31}, {"slices": 2}, {"index": -1}])
def test_too_small_a_phantom_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match="phantom: needs"):
        make_patient(**{"index": 0, "seed": 0, "size": 32, "slices": 3, **changes})


def test_same_seed_same_bytes(study: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path, patients=4, seed=5, size=48, slices=9)
    assert _digests(tmp_path) == _digests(study.parent)
    write_phantom(tmp_path, patients=4, seed=6, size=48, slices=9)
    changed, original = _digests(tmp_path), _digests(study.parent)
    images = [name for name in original if name.endswith(".dcm")]
    assert len(images) == 36 and all(changed[name] != original[name] for name in images)


def test_files_are_ct_image_storage_and_give_back_the_volume(study: Path) -> None:
    patient = make_patient(1, seed=5, size=48, slices=9)
    files = [pydicom.dcmread(path) for path in sorted((study.parent / "phantom-002").rglob("*.dcm"))]
    files.sort(key=lambda ds: float(ds.ImagePositionPatient[2]))
    for number, ds in enumerate(files):
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.SOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
        assert [float(value) for value in ds.ImageOrientationPatient] == [1, 0, 0, 0, 1, 0]
        assert (ds.BitsStored, ds.HighBit, ds.PixelRepresentation) == (12, 11, 0)
        assert ds.InstanceNumber == 9 - number  # counted from the head, against the geometry
        hu = ds.pixel_array.astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
        np.testing.assert_array_equal(hu, patient.volume[number])
        assert ds.pixel_array.max() < 4096
        assert [float(value) for value in ds.PixelSpacing] == list(patient.spacing_mm[1:])
    steps = np.diff([float(ds.ImagePositionPatient[2]) for ds in files])
    np.testing.assert_allclose(steps, patient.spacing_mm[0], atol=1e-3)
    # PS3.3: required and never empty (type 1) in the modules of CT Image Storage that these files use.
    required = (
        "StudyInstanceUID SeriesInstanceUID FrameOfReferenceUID Modality ImageType SamplesPerPixel Rows Columns "
        "PhotometricInterpretation BitsAllocated RescaleIntercept RescaleSlope PixelData PixelSpacing SOPInstanceUID"
    )
    empty_allowed = (
        "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime ReferringPhysicianName StudyID "
        "AccessionNumber SeriesNumber PositionReferenceIndicator Manufacturer SliceThickness AcquisitionNumber KVP"
    )
    for ds in files:
        assert all(ds.get(name) not in (None, "") for name in required.split())
        assert all(name in ds for name in empty_allowed.split())
    assert len({ds.SOPInstanceUID for ds in files}) == 9 and len({ds.SeriesInstanceUID for ds in files}) == 1


def test_identifiers_differ_between_patients(study: Path) -> None:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in study.parent.rglob("*.dcm")]
    for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({str(ds[name].value) for ds in headers}) == 4
    assert all("Phantom" in str(ds.PatientName) for ds in headers)


def test_the_label_table_is_grouped_by_patient_with_every_class_in_each_split(study: Path) -> None:
    rows = _table(study)
    assert len(rows) == 36
    splits, classes = defaultdict(set), defaultdict(set)
    for row in rows:
        assert (study.parent / row["source"]).is_dir()
        splits[row["patient"]].add(row["split"])
        classes[row["split"]].add(row["label"])
    assert all(len(split) == 1 for split in splits.values())
    assert classes == {"train": set(REGIONS), "test": set(REGIONS)}
    patient = make_patient(0, seed=5, size=48, slices=9)
    assert tuple(row["label"] for row in rows[:9]) == patient.labels
    assert [int(row["slice"]) for row in rows[:9]] == list(range(9))


def test_a_tree_of_another_shape_is_not_mixed_in(study: Path, tmp_path: Path) -> None:
    write_phantom(tmp_path, patients=2, seed=0, size=32, slices=4)
    before = _digests(tmp_path)
    with pytest.raises(InputError, match=r"2 other image.*remove them"):
        write_phantom(tmp_path, patients=2, seed=0, size=32, slices=3)
    with pytest.raises(InputError, match="at least one patient"):
        write_phantom(tmp_path, patients=0, seed=0)
    assert _digests(tmp_path) == before


def _histogram(patient: PhantomPatient) -> NDArray[np.float64]:
    bins = [np.histogram(hu, bins=64, range=(-1024, 1500))[0] / hu.size for hu in patient.volume]
    return np.stack(bins)


def _thumbnail(patient: PhantomPatient) -> NDArray[np.float64]:
    hu = np.clip(patient.volume, -1000, 600).astype(np.float64)
    return np.asarray(hu.reshape(len(hu), 32, 4, 32, 4).mean(axis=(2, 4)).reshape(len(hu), -1))


def test_intensities_alone_do_not_tell_the_region_but_the_arrangement_does() -> None:
    patients = [make_patient(index, seed=1) for index in range(12)]
    train, test = patients[:7], patients[7:]
    labels, truth = (np.concatenate([patient.labels for patient in group]) for group in (train, test))

    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    linear.fit(np.concatenate([_histogram(patient) for patient in train]), labels)
    by_histogram = linear.predict(np.concatenate([_histogram(patient) for patient in test]))
    assert balanced_accuracy_score(truth, by_histogram) < 0.7

    forest = RandomForestClassifier(100, random_state=0)
    forest.fit(np.concatenate([_thumbnail(patient) for patient in train]), labels)
    by_place = forest.predict(np.concatenate([_thumbnail(patient) for patient in test]))
    assert balanced_accuracy_score(truth, by_place) > 0.8
