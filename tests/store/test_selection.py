"""What filters leave of a store: computed in memory, or kept beside a large store."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medssl_monai.errors import StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store import selection
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.store.selection import USED_COLUMNS, KeptSelection
from tests.ingest.dicom_fixtures import KEY, phantom, write_series

UPPER = [["slice", ">=", 1]]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_series(folder / "in" / "one", phantom(4, seed=1), series="one", WindowCenter=40, WindowWidth=400)
    write_series(folder / "in" / "two", phantom(3, seed=2), series="two", PatientID="another")
    build_store([folder / "in"], folder / "store", key=KEY, progress=False)
    return folder


@pytest.fixture
def store(built: Path, tmp_path: Path) -> SliceStore:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    return SliceStore(tmp_path / "store")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every store counts as large, and its index is read in batches of two rows."""
    monkeypatch.setattr(selection, "KEPT_FROM", 0)
    monkeypatch.setattr("medssl_monai.store.index_file.BATCH_ROWS", 2)


@pytest.mark.parametrize("filters", [None, [], UPPER, [[["slice", "==", 0]], [["patient", "in", ["x"]]]]])
@pytest.mark.parametrize("kept", [None, np.array([1, 0])])
def test_a_large_store_gives_what_a_small_one_gives(
    store: SliceStore, filters: Any, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = SliceDataset(store, filters, kept=kept)
    monkeypatch.setattr(selection, "KEPT_FROM", 0)
    monkeypatch.setattr("medssl_monai.store.index_file.BATCH_ROWS", 2)
    for _ in ("computed", "opened"):
        data = SliceDataset(SliceStore(store.path), filters, kept=kept)
        assert [data.row(index) for index in range(len(data))] == [plain.row(index) for index in range(len(plain))]
        assert data.pixel_count() == plain.pixel_count()
    rows = store.select(filters)
    expected = [{name: row[name] for name in USED_COLUMNS} for row in rows]
    assert [plain.row(i) for i in range(len(plain))] == (expected if kept is None else [expected[1], expected[0]])


@pytest.mark.usefixtures("large")
def test_it_is_kept_by_filters_and_content(store: SliceStore, tmp_path: Path) -> None:
    folders = [store.selection(filters).folder for filters in (None, UPPER, UPPER)]  # type: ignore[attr-defined]
    assert folders[1] == folders[2] != folders[0]
    assert {folder.parent for folder in folders} == {store.path / "selections"}
    write_series(tmp_path / "in" / "three", phantom(2, seed=3), series="three", PatientID="third")
    build_store([tmp_path / "in"], store.path, key=KEY, progress=False)
    assert len(SliceStore(store.path).selection()) == 9
    assert len(list((store.path / "selections").iterdir())) == 1  # those of the earlier content are gone


@pytest.mark.usefixtures("large")
def test_workers_read_it_wherever_they_are(store: SliceStore) -> None:
    data = SliceDataset(store, UPPER)
    content = pickle.dumps(data)
    assert len(content) < 3000  # of the rows only the place
    other = pickle.loads(content)
    for key in (SampleKey(0, index) for index in range(len(data))):
        assert torch.equal(other[key]["image"], data[key]["image"])
        assert other[key]["series_id"] == data[key]["series_id"]
    assert isinstance(data._selection, KeptSelection)


@pytest.mark.usefixtures("large")
def test_a_store_that_cannot_be_written(store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (store.path / "selections").write_text("a file where the folder should be")
    folder = store.selection(UPPER).folder  # type: ignore[attr-defined]
    assert folder.is_relative_to(tmp_path / "cache" / "medssl-monai")
    assert len(store.selection(UPPER)) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", str(store.path / "selections"))  # neither can be written
    assert len(store.selection()) == 7


@pytest.mark.usefixtures("large")
def test_half_a_file_is_refused(store: SliceStore) -> None:
    folder = store.selection().folder  # type: ignore[attr-defined]
    file = folder / "rows.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match="is not a whole selection; remove this folder"):
        store.selection()
    with pytest.raises(IndexError):
        store.selection(UPPER).row(5)


@pytest.mark.usefixtures("large")
def test_rows_by_number(store: SliceStore) -> None:
    columns = ["series_id", "slice", "phash"]
    expected = [{name: row[name] for name in columns} for row in store.select(UPPER)]
    assert store.rows_at([0, 3, 4], UPPER, columns) == [expected[0], expected[3], expected[4]]
    assert store.count(UPPER) == 5
    table = store.select_table(UPPER, columns)
    assert table.to_pylist() == expected
    assert store.select_table([["slice", "<", 0]], columns).column_names == columns
