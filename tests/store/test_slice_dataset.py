from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medssl_monai.errors import NoImagesError, StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store.dataset import SampleKey, SliceDataset
from tests.ingest.dicom_fixtures import KEY, phantom, write_series


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    folder = tmp_path_factory.mktemp("data")
    write_series(folder / "in" / "one", phantom(4, seed=1), series="one", WindowCenter=40, WindowWidth=400)
    write_series(folder / "in" / "two", phantom(3, seed=2), series="two", PatientID="another")
    build_store([folder / "in"], folder / "store", key=KEY, progress=False)
    return SliceStore(folder / "store")


def test_items(store: SliceStore) -> None:
    data = SliceDataset(store)
    assert len(data) == 7
    for index, row in enumerate(store.select()):
        item = data[index]
        assert item["image"].shape == (1, 20, 16)
        assert item["image"].dtype == torch.int16
        assert np.array_equal(item["image"][0], store.read(row["series_id"], row["slice"]))
        assert item["spacing_mm"].tolist() == pytest.approx([0.7, 0.9])
        assert (item["index"], item["epoch"]) == (index, 0)
        assert all(item[name] == row[name] for name in ("modality", "series_id", "patient", "slice"))
        width = row["window_width"]
        assert item["window_width"] == width if width is not None else math.isnan(item["window_width"])


def test_keys(store: SliceStore) -> None:
    data = SliceDataset(store.path, transform=lambda item: (item["epoch"], item["index"], item["slice"]))
    assert data[SampleKey(3, 2)] == (3, 2, 2)
    assert data[-1] == (0, 6, data[6][2])
    with pytest.raises(IndexError, match="7 slices"):
        data[7]


def test_filters(store: SliceStore) -> None:
    assert len(SliceDataset(store, [["slice", ">=", 2]])) == 3
    with pytest.raises(NoImagesError, match="leave no slice"):
        SliceDataset(store, [["modality", "==", "MR"]])


def test_rows_with_entries_of_their_own(store: SliceStore) -> None:
    row = store.select()[5]
    short = {"series_id": row["series_id"], "slice": row["slice"], "label": 1, "split": "train"}
    for rows in ([short], [{**row, "label": 1, "split": "train"}]):
        item = SliceDataset(store, rows=rows)[0]
        assert (item["label"], item["split"], item["patient"], item["index"]) == (1, "train", row["patient"], 0)
        assert "phash" not in item
    with pytest.raises(StoreError, match="no slice 99"):
        SliceDataset(store, rows=[{**short, "slice": 99}])
    with pytest.raises(StoreError, match="not both"):
        SliceDataset(store, [["slice", "==", 0]], rows=[short])
    with pytest.raises(NoImagesError, match="rows hold no slice"):
        SliceDataset(store, rows=[])


def _checksum(item: dict[str, Any]) -> tuple[int, int]:
    return item["index"], int(item["image"].sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")  # Python 3.12 says so of every fork
def test_loader_workers(store: SliceStore, method: str) -> None:
    data = SliceDataset(store, transform=_checksum)
    expected = [data[i] for i in range(len(data))]
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=method)
    assert [tuple(item) for item in loader] == expected
