"""The cached store of a folder holds what the folder holds now, as if it had been made from it just now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medssl_monai.errors import NoImagesError, StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.open_store import open_store
from medssl_monai.store.schema import SCHEMA_VERSION
from tests.ingest.dicom_fixtures import KEY, anatomy, axial_positions, phantom, tree_bytes, write_series


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two series, a volume, and a file that is no image."""
    for seed, series in enumerate("ab"):
        write_series(tmp_path / "in" / series, phantom(seed=seed), series=series)
    save(tmp_path / "in" / "x.nii", 2.5)
    (tmp_path / "in" / "text").write_text("no image")
    return tmp_path / "in"


def save(path: Path, step: float) -> None:
    nib.save(nib.Nifti1Image(anatomy(1).T, np.diag([1.0, 1.0, step, 1.0])), path)  # type: ignore[no-untyped-call]


def opened(folder: Path) -> SliceStore:
    return open_store(folder, cache_dir=folder.parent / "cache", key=KEY)


def a_series_less(folder: Path) -> None:
    shutil.rmtree(folder / "b")


def an_image_less(folder: Path) -> None:
    (folder / "b" / "005.dcm").unlink()


def another_volume(folder: Path) -> None:
    save(folder / "x.nii", 5.0)


def other_images_of_a_series(folder: Path) -> None:
    shutil.rmtree(folder / "b")
    write_series(folder / "b", phantom(seed=7), series="b", positions=axial_positions(6, 1.0), SOPInstanceUID=None)


def all_at_once(folder: Path) -> None:
    a_series_less(folder)
    another_volume(folder)
    (folder / "text").unlink()
    write_series(folder / "c", phantom(seed=3), series="c")


@pytest.mark.parametrize(
    "change", [a_series_less, an_image_less, another_volume, other_images_of_a_series, all_at_once]
)
def test_what_changed_in_the_folder_changed_in_the_store(folder: Path, change: Callable[[Path], None]) -> None:
    before = opened(folder)
    change(folder)
    after = opened(folder)
    assert after.path == before.path
    fresh = folder.parent / "fresh"
    build_store([folder], fresh, key=KEY, modality="CT", progress=False)
    assert tree_bytes(after.path) == tree_bytes(fresh)
    assert {row["patient"] for row in after.select()} == {row["patient"] for row in SliceStore(fresh).select()}
    times = {path: path.stat().st_mtime_ns for path in after.path.rglob("*")}
    assert len(opened(folder)) == len(after)
    assert {path: path.stat().st_mtime_ns for path in after.path.rglob("*")} == times


def test_an_emptied_folder_is_an_error_and_loses_nothing(folder: Path) -> None:
    store = opened(folder)
    before = tree_bytes(store.path)
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(NoImagesError):
        opened(folder)
    assert tree_bytes(store.path) == before


def test_stores_that_are_named_keep_what_they_have(folder: Path, tmp_path: Path) -> None:
    """`build_store` adds to them, as its page says."""
    build_store([folder], tmp_path / "store", key=KEY, progress=False)
    a_series_less(folder)
    build_store([folder], tmp_path / "store", key=KEY, progress=False)
    assert len(SliceStore(tmp_path / "store").series_ids) == 3


def test_a_store_that_an_older_version_cached_is_made_anew(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr("medssl_monai.ingest.open_store.SCHEMA_VERSION", SCHEMA_VERSION - 1, raising=False)
        store = opened(folder)
    about = json.loads((store.path / "store.json").read_text(encoding="utf-8"))
    about["schema_version"] = SCHEMA_VERSION - 1
    (store.path / "store.json").write_text(json.dumps(about), encoding="utf-8")
    with pytest.raises(StoreError, match=f"schema version {SCHEMA_VERSION - 1}"):
        SliceStore(store.path)
    assert len(opened(folder)) == len(store)
