"""CT whose tags say Hounsfield units: pages, maps and values that cannot be HU are refused, odd ones flagged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.uid import JPEG2000Lossless

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import Reason
from tests.ingest.conftest import Ingest, only, rejections, volume
from tests.ingest.dicom_fixtures import anatomy, axial_positions, dataset, phantom, write, write_series

HU = anatomy(3, slices=5).astype(np.int32)
NOISE = np.random.default_rng(0).normal(0, 15, HU.shape).round().astype(np.int32)


def write_stored(folder: Path, stored: NDArray[Any], intercept: float = 0.0, **tags: Any) -> None:
    """A series of these stored values."""
    kind = np.int16 if stored.min() < 0 else np.uint16
    for i, position in enumerate(axial_positions(len(stored))):
        image = dataset(stored[i].astype(kind), position=position, name=i, intercept=intercept, **tags)
        write(image, folder / str(i))


NOT_HOUNSFIELD: dict[str, tuple[NDArray[Any], float]] = {
    "a window, 8 bits": (np.clip((HU + 160) * 255 // 400, 0, 255), 0),
    "a window, in HU": (np.clip(HU, -160, 240) + 160, -160),
    "from 0": (HU + 1024, 0),
    "from 0, padded": (np.where(np.indices(HU.shape)[2] < 6, -2000, HU + 1024), 0),
    "rescaled twice": (np.minimum(HU, 150), -1024),
    "rescaled twice, noisy": (HU + NOISE, -1024),
    "mask": (np.where(HU > 0, 255, 0), 0),
    "mask, with a rescale": (np.where(HU > 0, 255, 0), -1024),
    "labels": (np.clip(HU // 100, 0, 20), 0),
}


@pytest.mark.parametrize("kind", NOT_HOUNSFIELD)
def test_values_that_cannot_be_hounsfield(tmp_path: Path, run: Ingest, kind: str) -> None:
    write_stored(tmp_path / "in", *NOT_HOUNSFIELD[kind])
    with pytest.raises(NoImagesError, match="NOT_HOUNSFIELD: its tags say Hounsfield units, and its values cannot be"):
        run()
    _, summary = run(assume_hu=True)
    assert "took values as HU that do not look like it, as the caller declared" in only(summary).repairs


def test_slices_of_one_value_prove_nothing(tmp_path: Path, run: Ingest) -> None:
    flat = np.ones((4, 16, 16), int) * np.array([0, 40, 200, 400])[:, None, None]
    write_stored(tmp_path / "in", flat + 1024, -1024)
    store, summary = run()
    assert np.array_equal(volume(store), flat)
    assert only(summary).flags == ()


def test_the_series_beside_is_taken(tmp_path: Path, run: Ingest) -> None:
    write_stored(tmp_path / "in" / "odd", HU + 1024, series="odd")
    write_stored(tmp_path / "in" / "good", HU + NOISE + 1024, -1024)
    store, summary = run()
    assert np.array_equal(volume(store), HU + NOISE)
    assert rejections(summary) == {Reason.NOT_HOUNSFIELD: 5}


@pytest.mark.parametrize(
    ("hu", "flag"),
    [
        (np.clip(HU, -100, None) + NOISE, "no_air"),
        (np.full_like(HU, -1000) + NOISE, "no_tissue"),
        (HU + NOISE, ""),
        (np.where(np.indices(HU.shape)[1] < 13, -2000, HU), "padded"),
    ],
    ids=["small field of view", "air", "body", "padded"],
)
def test_odd_values_are_flagged(tmp_path: Path, run: Ingest, hu: NDArray[Any], flag: str) -> None:
    write_stored(tmp_path / "in", hu)
    _, summary = run()
    assert set(only(summary).flags) - {"undeclared_padding"} == ({flag} if flag else set())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["DERIVED", "SECONDARY", "OTHER", "CT_SOM5 PROT"], Reason.DERIVED_IMAGE),
        (["DERIVED", "SECONDARY", "DOSE REPORT"], Reason.DERIVED_IMAGE),
        (["DERIVED", "SECONDARY", "SCREEN SAVE"], Reason.DERIVED_IMAGE),
        (["DERIVED", "SECONDARY", "REFORMATTED", "MIN IP"], Reason.DERIVED_IMAGE),
        (["DERIVED", "SECONDARY", "REFORMATTED", "MAX_IP"], Reason.DERIVED_IMAGE),
        (["DERIVED", "SECONDARY", "AXIAL", "IODINE"], Reason.NOT_HOUNSFIELD),
        (["DERIVED", "PRIMARY", "VOLUME", "ATOMIC_NUM"], Reason.NOT_HOUNSFIELD),
        (["DERIVED", "PRIMARY", "AXIAL", "Z EFF"], Reason.NOT_HOUNSFIELD),
        (["ORIGINAL", "PRIMARY", "SCOUT"], Reason.LOCALIZER),
        (["ORIGINAL", "PRIMARY", "LOCALIZER", "CT_SOM5 TOP"], Reason.LOCALIZER),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"], None),
        (["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"], None),
        (["DERIVED", "SECONDARY", "MPR"], None),
        (["ORIGINAL", "PRIMARY", "AXIAL", "CALCIUM_SCORE"], None),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, list) else None,
)
def test_words_of_the_image_type(tmp_path: Path, run: Ingest, words: list[str], reason: Reason | None) -> None:
    write_series(tmp_path / "in" / "good", phantom())
    write_series(tmp_path / "in" / "odd", phantom(1), series="odd", ImageType=words)
    _, summary = run()
    assert rejections(summary) == ({} if reason is None else {reason: 1})


@pytest.mark.parametrize("bits", [12, 16])
def test_a_signed_codestream_under_an_unsigned_header(tmp_path: Path, run: Ingest, bits: int) -> None:
    hu = phantom(1, 64, 64)
    image = dataset(hu[0], intercept=0.0, BitsStored=bits, HighBit=bits - 1)
    image.compress(JPEG2000Lossless, generate_instance_uid=False)
    image.PixelRepresentation = 0
    write(image, tmp_path / "in" / "one")
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ("sign_corrected",)


def test_bits_above_those_stored(tmp_path: Path, run: Ingest) -> None:
    """Dropped, as PS3.5 8.1.1 has it, and said; the extension of a sign is none."""
    hu = phantom(2)
    stored = hu.astype(int) + 1024
    write_stored(tmp_path / "in", stored | 0x8000, -1024, BitsStored=12, HighBit=11)
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ("high_bits",)
    write_stored(tmp_path / "signed", hu, 0, BitsStored=12, HighBit=11)
    store, summary = run(tmp_path / "signed", out="other")
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ()


def test_a_table_that_is_too_short(tmp_path: Path, run: Ingest) -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.ModalityLUTType, table.LUTData = [4096, 0, 16], "HU", bytes(200)
    write_series(tmp_path / "in", phantom(1), slope=None, intercept=None, ModalityLUTSequence=[table])
    with pytest.raises(NoImagesError, match="its Modality LUT has 100 of 4096 entries; it is damaged"):
        run()
