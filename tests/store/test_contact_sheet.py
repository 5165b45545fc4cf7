from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from medssl_monai.errors import InputError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store.contact_sheet import contact_sheet
from medssl_monai.store.verdicts import Outcome
from tests.ingest.dicom_fixtures import KEY, phantom, write_series


@pytest.fixture
def store(tmp_path: Path) -> SliceStore:
    write_series(tmp_path / "in" / "one", phantom(9), series="one", ConvolutionKernel="x$_{$")
    write_series(tmp_path / "in" / "two", phantom(2), series="two", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    write_series(tmp_path / "in" / "bad", phantom(3), series="bad", RescaleSlope=None, RescaleIntercept=None)
    (tmp_path / "in" / "notes.txt").write_text("no series, and not in the sheet")
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    return SliceStore(tmp_path / "store")


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of each page that is drawn, from top to bottom."""
    pages: list[list[str]] = []
    original = Figure.savefig

    def save(self: Figure, *args: object, **options: object) -> None:
        pages.append([text.get_text() for text in self.texts])
        original(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Figure, "savefig", save)
    return pages


def test_draws_every_series(store: SliceStore, tmp_path: Path, written: list[list[str]]) -> None:
    (path,) = contact_sheet(store, tmp_path / "new" / "sheet.png", columns=4, dpi=60)
    picture = matplotlib.image.imread(path)[..., :3]
    assert picture.shape[1] == pytest.approx((4 * 1.25 + 0.2) * 60, abs=1)
    halves = np.array_split(picture, 2)
    assert all(half.max() > 0.9 for half in halves)
    (again,) = contact_sheet(store, tmp_path / "again.png", columns=4, dpi=60)
    assert again.read_bytes() == path.read_bytes()
    (rejected,) = (one for one in store.verdicts if one.outcome is Outcome.REJECTED and one.kind == "series")
    assert written[0][:2] == ["2 series, 1 rejected; flagged ones first", rejected.series_id]
    assert {*store.series_ids} <= {*written[0][2:]}


def test_what_is_changed_or_flagged_comes_first(tmp_path: Path, written: list[list[str]]) -> None:
    for name in ("a", "b", "c", "d"):
        lost = {"ImagePositionPatient": None, "ImageOrientationPatient": None} if name == "c" else {}
        write_series(tmp_path / "in" / name, phantom(4, seed=ord(name)), series=name, **lost)
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    store = SliceStore(tmp_path / "store")
    flags = {row["series_id"]: len(row["flags"]) for row in store.select()}
    contact_sheet(store, tmp_path / "sheet.png", columns=2, dpi=40)
    drawn = [word for word in written[0] if word in flags]
    assert sorted(drawn) == store.series_ids
    assert flags[drawn[0]] > max(flags[one] for one in drawn[1:])


def test_a_long_sheet_has_pages(store: SliceStore, tmp_path: Path, written: list[list[str]]) -> None:
    pages = contact_sheet(store, tmp_path / "sheet.png", columns=3, dpi=50, page_series=1)
    assert [page.name for page in pages] == ["sheet.png", "sheet.page2.png", "sheet.page3.png"]
    assert written[1][0].endswith("page 2 of 3")
    assert set(store.series_ids) <= {word for page in written for word in page}
    (tmp_path / "sheet.page2.mine.png").touch()
    contact_sheet(store, tmp_path / "sheet.png", columns=3, dpi=50)
    assert sorted(page.name for page in tmp_path.glob("*.png")) == ["sheet.page2.mine.png", "sheet.png"]


@pytest.mark.parametrize(("columns", "window"), [(0, (40, 400)), (3, (40, 0))])
def test_refuses(store: SliceStore, tmp_path: Path, columns: int, window: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="must be positive"):
        contact_sheet(store, tmp_path / "x.png", columns=columns, window=window)
