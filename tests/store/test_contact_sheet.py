from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from medssl_monai.errors import InputError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store.contact_sheet import contact_sheet
from tests.ingest.dicom_fixtures import KEY, phantom, write_series


@pytest.fixture
def store(tmp_path: Path) -> SliceStore:
    write_series(tmp_path / "in" / "one", phantom(9), series="one")
    write_series(tmp_path / "in" / "two", phantom(2), series="two", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    return SliceStore(tmp_path / "store")


def test_draws_every_series(store: SliceStore, tmp_path: Path) -> None:
    path = contact_sheet(store, tmp_path / "new" / "sheet.png", columns=4, dpi=60)
    picture = matplotlib.image.imread(path)[..., :3]
    assert picture.shape[1] == pytest.approx((4 * 1.25 + 0.2) * 60, abs=1)
    halves = np.array_split(picture, 2)
    assert all(half.max() > 0.9 for half in halves)
    assert contact_sheet(store, tmp_path / "again.png", columns=4, dpi=60).read_bytes() == path.read_bytes()


def test_leaves_out_what_is_too_much(store: SliceStore, tmp_path: Path) -> None:
    both = contact_sheet(store, tmp_path / "both.png", columns=3, dpi=50)
    one = contact_sheet(store, tmp_path / "one.png", columns=3, dpi=50, max_series=1)
    assert matplotlib.image.imread(one).shape[0] < matplotlib.image.imread(both).shape[0]


@pytest.mark.parametrize(("columns", "window"), [(0, (40, 400)), (3, (40, 0))])
def test_refuses(store: SliceStore, tmp_path: Path, columns: int, window: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="must be positive"):
        contact_sheet(store, tmp_path / "x.png", columns=columns, window=window)
