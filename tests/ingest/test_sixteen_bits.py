"""X-rays and MR of 16 bits without a sign: every value is kept, moved down as a whole, and the verdict says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest

from medssl_monai.classify.audited import audit
from medssl_monai.ingest import Outcome, SliceStore, build_store
from medssl_monai.store.measures import hamming_distance, perceptual_hash
from medssl_monai.store.verdicts import FLAGS
from tests.ingest.dicom_fixtures import KEY, anatomy, dataset, write, write_series

MR: dict[str, Any] = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}
DX: dict[str, Any] = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX"}


def wide(seed: int = 0, slices: int = 2) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Values from 0 to 65535 that look like something."""
    picture = anatomy(seed, slices).astype(np.float64)
    spread = (picture - picture.min()) / (picture.max() - picture.min()) * 65535
    values: np.ndarray[Any, np.dtype[np.uint16]] = spread.round().astype(np.uint16)
    return values


@pytest.mark.parametrize("inverted", [False, True])
def test_x_ray_keeps_all_values(tmp_path: Path, inverted: bool) -> None:
    image = wide()[0]
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    write(dataset(image, PhotometricInterpretation=kind, **DX), tmp_path / "in" / "x")
    summary = build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    store = SliceStore(tmp_path / "store")
    shown = 65535 - image.astype(np.int64) if inverted else image.astype(np.int64)
    assert np.array_equal(store.read(store.series_ids[0], 0).astype(np.int64) + 32768, shown)
    verdict = summary.verdicts[0]
    assert verdict.outcome is Outcome.REPAIRED
    assert "lowered" in verdict.flags and "clipped" not in verdict.flags
    assert FLAGS["lowered"] in verdict.repairs


def test_whole_series_is_lowered_if_one_slice_needs_it(tmp_path: Path) -> None:
    images = wide(slices=3)
    images[:2] //= 4
    for number, image in enumerate(images):
        write(dataset(image, name=number, position=(0, 0, number), **MR), tmp_path / "in" / str(number))
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    store = SliceStore(tmp_path / "store")
    found = store.read_series(store.series_ids[0]).astype(np.int64) + 32768
    assert np.array_equal(found, images)
    assert {row["flags"] for row in store.select()} == {"lowered"}


def test_what_fits_stays_as_it_is(tmp_path: Path) -> None:
    image = (wide()[0] // 2).astype(np.uint16)
    write(dataset(image, **DX), tmp_path / "in" / "x")
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    store = SliceStore(tmp_path / "store")
    assert np.array_equal(store.read(store.series_ids[0], 0), image)
    assert store.select()[0]["flags"] == ""


def test_pictures_and_volumes(tmp_path: Path) -> None:
    images = wide()
    (tmp_path / "in").mkdir()
    assert cv2.imwrite(str(tmp_path / "in" / "x.png"), images[0])
    nibabel.save(nibabel.Nifti1Image(images.transpose(2, 1, 0), np.diag([-1, -1, 2, 1])), tmp_path / "in" / "v.nii")  # type: ignore[no-untyped-call]
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, modality="MR", progress=False)
    store = SliceStore(tmp_path / "store")
    found = {len(one): one.astype(np.int64) + 32768 for one in map(store.read_series, store.series_ids)}
    assert np.array_equal(found[1][0], images[0])
    assert np.array_equal(found[2], images)
    assert all("lowered" in verdict.flags for verdict in store.verdicts)


def test_they_are_told_apart_and_found_again(tmp_path: Path) -> None:
    """Hash and audit see the whole scale: not only what lies below 3071, where HU end."""
    low = [(image.astype(np.int64) - 32768).astype(np.int16) for image in (*wide(0), *wide(1))]
    assert hamming_distance(perceptual_hash(low[0], "DX"), perceptual_hash(low[2], "DX")) > 16
    for seed, name in ((0, "a"), (0, "b"), (1, "c")):
        for number, image in enumerate(wide(seed)):
            place: dict[str, Any] = {"position": (0, 0, number), "series": name, "name": number, "PatientID": name}
            write(dataset(image, **place, **MR), tmp_path / name / str(number))
        build_store([tmp_path / name], tmp_path / f"store {name}", key=KEY, progress=False)
    found = audit([tmp_path / f"store {name}" for name in "abc"]).near_duplicates
    assert [one.slices for one in found] == [2]


def test_ct_is_not_lowered(tmp_path: Path) -> None:
    write_series(tmp_path / "in", np.full((1, 8, 8), 100, np.int16), slope=1000.0)
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    assert SliceStore(tmp_path / "store").select()[0]["flags"] == "clipped"
