"""Files and folders that may not be read, or are gone: each costs itself, and has a verdict."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from medssl_monai.errors import InputError
from medssl_monai.ingest import Reason, build_store
from medssl_monai.ingest.volumes.plan import plan_volumes
from medssl_monai.store.pseudonyms import source_id
from tests.ingest.conftest import Ingest
from tests.ingest.dicom_fixtures import KEY, anatomy, phantom, write, write_series
from tests.ingest.enhanced_fixtures import write_enhanced
from tests.ingest.matrix import judged

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """A series that may be read, and one in `DOE_JOHN`, that is for the test to close."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        write_series(path / "in" / "open", phantom(seed=1), series="open")
        write_series(path / "in" / "DOE_JOHN", phantom(seed=2), series="closed")
        path.chmod(0o777)
        yield path
        (path / "in" / "DOE_JOHN").chmod(0o700)


@pytest.fixture
def as_nobody() -> Iterator[None]:
    """Rights are checked: not so for root, who is another user for the time of the test."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(NOBODY)
    yield
    os.seteuid(was)


@pytest.mark.parametrize(("rights", "unreadable"), [(0, 1), (4, 6), (1, 1)])
def test_folders_without_rights_have_verdicts(
    folder: Path, request: pytest.FixtureRequest, rights: int, unreadable: int
) -> None:
    """Neither listed nor entered; listed, but its files cannot be told from folders; entered, but not listed."""
    build_store([folder / "in" / "open"], folder / "first", key=KEY, progress=False)  # imports what nobody may not read
    closed = folder / "in" / "DOE_JOHN"
    closed.chmod(rights * 0o111)
    request.getfixturevalue("as_nobody")
    summary = build_store([folder / "in"], folder / "store", key=KEY, progress=False)
    assert judged(summary) == {"accepted": 6, "UNREADABLE": unreadable}
    refused = [one for one in summary.verdicts if one.reason is Reason.UNREADABLE]
    assert all("correct its permissions" in one.detail and "DOE" not in one.detail for one in refused)
    if unreadable == 1:
        assert refused[0].source_id == source_id(KEY, closed)
        with pytest.raises(InputError, match="does not exist, or its folder may not be read"):
            build_store([closed / "none"], folder / "other", key=KEY, progress=False)


def picture(folder: Path, seed: int) -> None:
    assert cv2.imwrite(str(folder / f"{seed}.png"), phantom(1, seed=seed)[0].clip(0).astype(np.uint8))


def volume(folder: Path, seed: int) -> None:
    nib.save(nib.Nifti1Image(anatomy(seed).T, np.eye(4)), folder / f"{seed}.nii.gz")  # type: ignore[no-untyped-call]


def plain(folder: Path, seed: int) -> None:
    write_series(folder, phantom(1, seed=seed), series=str(seed), names=[f"{seed}.dcm"])


def compressed(folder: Path, seed: int) -> None:
    plain(folder, seed)
    image = pydicom.dcmread(folder / f"{seed}.dcm")
    image.compress(RLELossless, generate_instance_uid=False)
    write(image, folder / f"{seed}.dcm")


def enhanced(folder: Path, seed: int) -> None:
    frames = phantom(1, seed=seed) + 1024
    write_enhanced(folder / f"{seed}.dcm", frames, [[0, 0, 0]], series=str(seed))


@pytest.mark.parametrize("make", [picture, volume, plain, compressed, enhanced])
def test_files_that_vanish_after_they_were_found_cost_themselves(
    tmp_path: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, int], None]
) -> None:
    (tmp_path / "in").mkdir()
    for seed in (1, 2):
        make(tmp_path / "in", seed)

    def vanishing(*arguments: Any) -> Any:
        """The first thing that is done once all headers were read."""
        next((tmp_path / "in").glob("1.*")).unlink()
        return plan_volumes(*arguments)

    monkeypatch.setattr("medssl_monai.ingest.pipeline.plan_volumes", vanishing)
    assert judged(run()[1]) == {"accepted": 1, "UNREADABLE": 1}
