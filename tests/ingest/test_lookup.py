"""What a path stands for: all series that lie there as a whole, and moved files by what is in them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from medssl_monai.errors import LabelError
from medssl_monai.ingest import SliceStore
from medssl_monai.ingest.lookup import find_series
from tests.ingest.conftest import Ingest
from tests.ingest.dicom_fixtures import KEY, phantom, uid, write_series


@pytest.fixture
def store(tmp_path: Path, run: Ingest) -> SliceStore:
    """Series A over two folders, B in one of these, and a picture."""
    for path in write_series(tmp_path / "in" / "a", phantom(seed=1), series="A")[3:]:
        (tmp_path / "in" / "b").mkdir(exist_ok=True)
        path.rename(tmp_path / "in" / "b" / f"A{path.name}")
    write_series(tmp_path / "in" / "b", phantom(seed=2), series="B")
    (tmp_path / "in" / "c").mkdir()
    grey = np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)
    assert cv2.imwrite(str(tmp_path / "in" / "c" / "x.png"), grey)
    return run()[0]


def test_a_folder_stands_for_all_that_lies_in_it(store: SliceStore, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="stands for 3 series"):
        find_series(store, tmp_path / "in", KEY)
    # A is not wholly in either folder.
    assert find_series(store, tmp_path / "in" / "b", KEY) == find_series(store, uid("B"), KEY)
    assert find_series(store, tmp_path / "in" / "a", KEY) == find_series(store, uid("A"), KEY)
    (tmp_path / "in" / "c" / "x.png").unlink()
    with pytest.raises(LabelError, match="stands for 2 series"):
        find_series(store, tmp_path / "in", KEY)


def test_moved_pictures_are_found(store: SliceStore, tmp_path: Path) -> None:
    picture = find_series(store, tmp_path / "in" / "c" / "x.png", KEY)
    (tmp_path / "in" / "c").rename(tmp_path / "moved")
    assert find_series(store, tmp_path / "moved" / "x.png", KEY) == picture
    assert find_series(store, tmp_path / "moved", KEY) == picture
