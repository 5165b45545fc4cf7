from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

from medssl_monai.engines.loader import StepLoader
from medssl_monai.errors import ConfigError, NoImagesError, StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms import LabelledViewd, TwoViewsd
from tests.ingest.dicom_fixtures import KEY, phantom, write_series

# Python 3.12 says so of every fork.
no_fork_warning = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


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
    with pytest.raises(IndexError, match="7 samples"):
        data[7]


def test_filters(store: SliceStore) -> None:
    assert len(SliceDataset(store, [["slice", ">=", 2]])) == 3
    with pytest.raises(NoImagesError, match="leave no slice"):
        SliceDataset(store, [["modality", "==", "MR"]])


def test_filters_for_pictures_on_hounsfield_units_are_told(store: SliceStore) -> None:
    with pytest.raises(NoImagesError, match="in Hounsfield units: leave `--config pictures` out"):
        SliceDataset(store, filters=[["modality", "!=", "CT"], ["plane", "==", "unknown"]])


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


def test_pixels_are_counted_without_reading(store: SliceStore) -> None:
    assert SliceDataset(store).pixel_count() == 7 * 20 * 16
    rows = store.select([["slice", "==", 0]])
    assert SliceDataset(store, rows=rows).pixel_count() == len(rows) * 20 * 16


@pytest.mark.parametrize("method", ["fork", "spawn"])
@no_fork_warning
def test_loader_workers(store: SliceStore, method: str) -> None:
    data = SliceDataset(store, transform=_checksum)
    expected = [data[i] for i in range(len(data))]
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=method)
    assert [tuple(item) for item in loader] == expected


WORKERS = [
    pytest.param({}, id="none"),
    pytest.param({"num_workers": 2}, id="two"),
    pytest.param({"num_workers": 2, "persistent_workers": True}, id="persistent"),
    pytest.param({"num_workers": 2, "persistent_workers": True, "prefetch_factor": 4}, id="reading_ahead"),
    pytest.param(
        {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": "spawn"},
        id="spawned",
        marks=pytest.mark.slow,
    ),
]
Views = dict[int, tuple[float, ...]]


def views_of(batches: Iterable[dict[str, Any]]) -> Views:
    """A number for each view of each slice, by the slice's index."""
    found: Views = {}
    for batch in batches:
        for place, index in enumerate(batch["index"].tolist()):
            found[index] = tuple(float(view[place].double().sum()) for view in batch["views"])
    return found


def changed(one: Views, other: Views) -> bool:
    """Whether every slice has other views."""
    return one.keys() == other.keys() and all(one[index] != other[index] for index in one)


@pytest.fixture(scope="module")
def passes(store: SliceStore) -> list[Views]:
    """The views of epochs 0 .. 3, asked for by epoch and index."""
    data = SliceDataset(store, transform=TwoViewsd(seed=3, image_size=16))
    keys = [[SampleKey(epoch, index) for index in range(len(data))] for epoch in range(4)]
    return [views_of(DataLoader(data, batch_size=3, sampler=own)) for own in keys]


@no_fork_warning
@pytest.mark.parametrize("workers", WORKERS)
def test_each_pass_of_a_plain_loader_draws_fresh_views_that_repeat_under_the_seed(
    store: SliceStore, passes: list[Views], workers: dict[str, Any]
) -> None:
    data = SliceDataset(store, transform=TwoViewsd(seed=3, image_size=16))
    loader = DataLoader(data, batch_size=2, shuffle=True, **workers)
    made = [views_of(loader) for _ in range(3)]
    assert changed(made[0], made[1]) and changed(made[1], made[2]) and changed(made[0], made[2])
    assert made == passes[:3]
    data.set_epoch(1)
    assert views_of(loader) == views_of(loader) == passes[1]
    data.set_epoch(None)
    assert views_of(loader) == passes[3]


@no_fork_warning
@pytest.mark.parametrize("workers", WORKERS[:3])
def test_a_pass_that_was_broken_off_leaves_no_stale_views(store: SliceStore, workers: dict[str, Any]) -> None:
    data = SliceDataset(store, transform=TwoViewsd(seed=3, image_size=16))
    loader = DataLoader(data, batch_size=2, **workers)
    broken = views_of(itertools.islice(loader, 2))
    whole = views_of(loader)
    assert len(broken) == 4 and len(whole) == 7
    assert all(whole[index] != broken[index] for index in broken)


@no_fork_warning
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_copies_count_too(store: SliceStore, passes: list[Views], duplicate: Callable[[Any], Any]) -> None:
    data = duplicate(SliceDataset(store, transform=TwoViewsd(seed=3, image_size=16)))
    loader = DataLoader(data, batch_size=2, num_workers=2)
    assert [views_of(loader), views_of(loader)] == passes[:2]


def test_samplers_subsets_and_keys(store: SliceStore, passes: list[Views]) -> None:
    data = SliceDataset(store, transform=TwoViewsd(seed=3, image_size=16))
    own = [views_of(DataLoader(Subset(data, part), batch_size=2)) for part in ([0, 2], [5], [2])]
    assert own == [{i: passes[0][i] for i in (0, 2)}, {5: passes[0][5]}, {2: passes[1][2]}]
    assert data[SampleKey(9, 6)]["epoch"] == 9  # says its epoch itself, and is not counted
    assert [data[6]["epoch"], data[-1]["epoch"], data[6]["epoch"]] == [0, 1, 2]
    repeated = [next(iter(DataLoader(data, batch_size=1, sampler=[4])))["views"][0] for _ in range(2)]
    assert not torch.equal(*repeated)
    with pytest.raises(ConfigError, match="at least 0"):
        data.set_epoch(-1)


@given(st.lists(st.one_of(st.integers(-7, 6), st.tuples(st.integers(0, 9), st.integers(0, 6))), max_size=60))
@settings(max_examples=25, deadline=None)
def test_any_order_counts_each_index_by_itself(store: SliceStore, asked: list[int | tuple[int, int]]) -> None:
    data = SliceDataset(store, transform=lambda item: (item["epoch"], item["index"]))
    counts = Counter[int]()
    for one in asked:
        if isinstance(one, tuple):
            assert data[SampleKey(*one)] == one
        else:
            assert data[one] == (counts[one % 7], one % 7)
            counts[one % 7] += 1


@no_fork_warning
def test_evaluation_is_the_same_in_every_pass(store: SliceStore) -> None:
    data = SliceDataset(store, transform=LabelledViewd(image_size=16, augment=False))
    loader = DataLoader(data, batch_size=7, num_workers=1, persistent_workers=True)
    first, second = (next(iter(loader))["image"] for _ in range(2))
    assert torch.equal(first, second)


def test_the_training_loader_says_its_epochs_itself(store: SliceStore) -> None:
    transform = TwoViewsd(seed=3, image_size=16)
    touched, fresh = SliceDataset(store, transform=transform), SliceDataset(store, transform=transform)
    views_of(DataLoader(touched, batch_size=2))
    made = [views_of(itertools.islice(StepLoader(data, 4, seed=0), 4)) for data in (touched, fresh)]
    assert made[0] == made[1]
    assert fresh[0]["epoch"] == 0
