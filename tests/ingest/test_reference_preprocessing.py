"""The reference's 8-bit pictures from a store of ours: DICOM in, the window `minmax`, and the golden bytes out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.transforms import CTWindow
from tests.ingest.dicom_fixtures import KEY, dataset, write

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "preproc_lidc.npz")
CASES = json.loads(str(GOLDEN["meta"]))["cases"]


def stored_slice(folder: Path, case: int) -> NDArray[np.int16]:
    tags = CASES[case]["tags"]
    slope, intercept = tags.get("RescaleSlope", 1.0), tags.get("RescaleIntercept", -1024.0)
    image = dataset(GOLDEN[f"c{case}_pixel_array"], slope=slope, intercept=intercept)
    write(image, folder / "in" / "image")
    build_store([folder / "in"], folder / "store", key=KEY, progress=False)
    store = SliceStore(folder / "store")
    return store.read(store.series_ids[0], 0)


def eight_bits(hu: NDArray[Any]) -> NDArray[np.uint8]:
    eight: NDArray[np.uint8] = np.rint(np.asarray(CTWindow("minmax")(hu[None]))[0] * 255).astype(np.uint8)
    return eight


@pytest.mark.parametrize("case", [0, 1, 2])
def test_the_same_bytes(tmp_path: Path, case: int) -> None:
    """Whole slopes, intercepts of -1024: padding of -2000 becomes what ours becomes."""
    np.testing.assert_array_equal(eight_bits(stored_slice(tmp_path, case)), GOLDEN[f"c{case}_png"])


def test_where_it_differs_on_purpose(tmp_path: Path) -> None:
    """Fractions are rounded here and cut there; padding is air here and stored 0 there, which may be water."""
    ours, theirs = (one.astype(int) for one in (stored_slice(tmp_path / "3", 3), GOLDEN["c3_hu"]))
    inside = GOLDEN["c3_pixel_array"] != -2000
    assert np.abs(ours - theirs)[inside].max() <= 1
    padded = GOLDEN["c4_pixel_array"] == -2000
    if padded.any():
        ours, theirs = (one.astype(int) for one in (stored_slice(tmp_path / "4", 4), GOLDEN["c4_hu"]))
        assert set(ours[padded].tolist()) == {-1024}
        assert set(theirs[padded].tolist()) == {0}
