"""Mutated files: never a crash or a hang, never a value that cannot be; every one ends in a verdict.

Each mutation follows from its number alone, so that a found case can be made again; such numbers are kept in FOUND.
"""

from __future__ import annotations

import random
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from medssl_monai.errors import GeometryError
from medssl_monai.ingest import build_store
from medssl_monai.ingest.dicom.admission import Rules
from medssl_monai.ingest.dicom.pixels import read_pixels
from medssl_monai.ingest.dicom.plan import plan_series
from medssl_monai.ingest.scan import look_at
from medssl_monai.ingest.sources.archives import ArchiveLimits, unpacked
from medssl_monai.ingest.sources.paths import SourceFile
from medssl_monai.ingest.volumes.pictures import read_picture
from medssl_monai.ingest.volumes.read import read_volume
from medssl_monai.ingest.volumes.volume import check_values, cut
from medssl_monai.store.verdicts import RejectedError
from tests.ingest.dicom_fixtures import KEY, axial_positions, phantom, write_series
from tests.ingest.enhanced_fixtures import write_enhanced
from tests.ingest.matrix import stored

FOUND: tuple[int, ...] = (2226, 2382, 6505, 12730)
"""Numbers of mutations that once failed."""

SECONDS = 10.0
"""A single small file that takes longer hangs."""


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Valid files of every kind that is read."""
    import cv2
    import nibabel
    import SimpleITK as sitk  # noqa: N813

    folder = tmp_path_factory.mktemp("seeds")
    made = write_series(folder, phantom(2), WindowCenter=40, WindowWidth=400)
    made.append(write_enhanced(folder / "enhanced.dcm", stored(phantom(4)), axial_positions(4)))
    image = nibabel.Nifti1Image(phantom().transpose(2, 1, 0), np.diag([-0.9, -0.7, 2.5, 1]))  # type: ignore[no-untyped-call]
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, folder / name)
        made.append(folder / name)
    for name in ("a.nrrd", "a.mha"):
        sitk.WriteImage(sitk.GetImageFromArray(phantom()), str(folder / name))
        made.append(folder / name)
    for name in ("a.png", "a.jpg"):
        cv2.imwrite(str(folder / name), (stored(phantom()[0]) // 8).astype(np.uint8))
        made.append(folder / name)
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(made[0], "x/a.dcm")
    made.append(folder / "a.zip")
    names = ("CT_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm")
    more = ("MR_small_bigendian.dcm", "MR_small_implicit.dcm", "emri_small_jpeg_2k_lossless.dcm")
    return made + [Path(str(get_testdata_file(name, download=False))) for name in (*names, *more)]


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Bits flipped, bytes overwritten, removed, doubled, or the end cut off."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        # Headers are where structure is: half of the changes go there.
        place = draw.randrange(min(len(changed), 1200) if draw.random() < 0.5 else len(changed))
        kind = draw.randrange(5)
        if kind == 0:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[place : place + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff"))
        elif kind == 2:
            del changed[place : place + draw.randrange(1, 40)]
        elif kind == 3:
            changed[place:place] = changed[place : place + draw.randrange(1, 40)]
        else:
            del changed[place + draw.randrange(1, 2000) :]
        if len(changed) < 2:
            break
    return bytes(changed)


def try_one(number: int, seeds: list[Path], folder: Path) -> None:
    draw = random.Random(number)
    seed = draw.choice(seeds)
    path = folder / f"mutated{''.join(seed.suffixes)}"
    path.write_bytes(mutated(seed.read_bytes(), draw))
    started = time.monotonic()
    with unpacked([path], folder / "drafts", ArchiveLimits(unpacked_bytes=10**8)) as (files, _):
        for file in files:
            _read(file)
    assert time.monotonic() - started < SECONDS, f"mutation {number} hangs"


def _read(file: SourceFile) -> None:
    """As a run does, in one process: whatever is broken is rejected; what is read has possible values."""
    found = look_at(file, Rules())
    try:
        if found.digest and file.content.name.endswith((".png", ".jpg")):
            read_picture(file.content)
        elif found.digest:
            volume = read_volume(file.content)
            check_values(volume, "CT", False)
            for one in cut(volume).slices("CT"):
                assert one.pixels.dtype == np.int16
    except (RejectedError, GeometryError):
        return
    taken = [instance for instance, refused in found.instances if refused is None]
    plans, _ = plan_series(taken, KEY)
    for instance in (instance for plan in plans for instance in plan.instances):
        try:
            image = read_pixels(instance)
        except RejectedError:
            continue
        assert image.pixels.dtype == np.int16
        assert image.pixels.shape == instance.shape
        if instance.modality == "CT":
            assert "clipped" in image.flags or image.pixels.min() >= -1500


def run_many(numbers: range | tuple[int, ...], seeds: list[Path], folder: Path) -> None:
    for number in numbers:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                try_one(number, seeds, folder)
            except Exception as error:
                raise AssertionError(f"mutation {number}: {type(error).__name__}: {error}") from error


def test_some_mutations(seeds: list[Path], tmp_path: Path) -> None:
    run_many((*FOUND, *range(600)), seeds, tmp_path)


@pytest.mark.slow
def test_many_mutations(seeds: list[Path], tmp_path: Path) -> None:
    run_many(range(1000, 21000), seeds, tmp_path)


def test_a_run_over_mutated_files(seeds: list[Path], tmp_path: Path) -> None:
    """Beside a good series, which is not harmed; the verdicts add up."""
    draw = random.Random(1)
    write_series(tmp_path / "in" / "good", phantom(seed=9), series="good")
    for number in range(60):
        seed = draw.choice(seeds)
        path = tmp_path / "in" / f"{number}{''.join(seed.suffixes)}"
        path.write_bytes(mutated(seed.read_bytes(), draw))
    summary = build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    assert sum(verdict.files for verdict in summary.verdicts) == summary.files >= 66
    good = [verdict for verdict in summary.verdicts if verdict.slices == 6 and verdict.files == 6]
    assert good
