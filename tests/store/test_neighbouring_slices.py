"""Channels from neighbouring slices: found in mm, the slice itself at an end and in a gap, all of the store count."""

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.errors import ConfigError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.depths import neighbouring_slices
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms import LabelledViewd
from tests.ingest.dicom_fixtures import KEY, phantom, write_series

AXIS = [0.0, 0.0, 1.0]


def index(*series: list[float] | None) -> pa.Table:
    """An index of series with slices at these places, mm; None is a picture."""
    rows = []
    for name, places in zip("abcdef", series, strict=False):
        steps: list[Any] = [None] if places is None else [b - a for a, b in pairwise(places)]
        steps += [] if places is None else [steps[-1] if steps else 5.0]  # a slice alone has its thickness
        rows += [{"series_id": name, "slice": n, "slice_spacing_mm": step} for n, step in enumerate(steps)]
    schema = pa.schema([("series_id", pa.string()), ("slice", pa.int32()), ("slice_spacing_mm", pa.float64())])
    return pa.Table.from_pylist(rows, schema=schema)


@pytest.mark.parametrize(
    ("places", "distance", "below", "above"),
    [
        ([0, 5, 10, 15], 5, [0, 0, 1, 2], [1, 2, 3, 3]),
        ([0, 1, 2, 3, 4], 2, [0, 1, 0, 1, 2], [2, 3, 4, 3, 4]),
        ([0, 3, 6, 9], 5, [0, 1, 0, 1], [2, 3, 2, 3]),  # 6 mm is the nearest to 5 mm
        ([0, 2, 4, 6, 8], 5, [0, 1, 0, 1, 2], [2, 3, 4, 3, 4]),  # of 4 and 6 mm the nearer to the slice
        ([0, 5, 10], 2, [0, 1, 2], [0, 1, 2]),  # the nearest to 2 mm is the slice itself
        ([0, 10, 20], 5, [0, 1, 2], [0, 1, 2]),  # so it is of two that are equally near
        ([0, 1, 2, 7, 8, 9], 1, [0, 0, 1, 3, 3, 4], [1, 2, 2, 4, 5, 5]),  # a gap
        ([0, 1, 2, 7, 8, 9], 5, [0, 1, 2, 2, 4, 5], [0, 1, 3, 3, 4, 5]),  # across the gap, where a slice is
        ([0, 2.5, 5.01, 7.5], 2.5, [0, 0, 1, 2], [1, 2, 3, 3]),  # positions are rounded decimal text
        ([0], 5, [0], [0]),
    ],
)
def test_the_nearest_slice_in_mm(places: list[float], distance: float, below: list[int], above: list[int]) -> None:
    found = neighbouring_slices(index([float(p) for p in places], None, [0.0, distance]), distance)
    count = len(places)
    assert found[:count].tolist() == list(map(list, zip(below, above, strict=True)))
    assert found[count:].tolist() == [[0, 0], [0, 1], [0, 1]], "of a picture, and of another series"


@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(1, 100))
def test_neighbours_follow_their_rule(steps: list[int], distance: int) -> None:
    """Against every slice one by one; tenths of mm, so that nothing lies on a bound by rounding."""
    places = np.concatenate([[0], np.cumsum(steps)]) / 10
    half = float(np.median(np.diff(places))) / 2
    found = neighbouring_slices(index(places.tolist()), distance / 10)
    for own, pair in enumerate(found.tolist()):
        for towards, number in zip((-1, 1), pair, strict=True):
            away = np.abs(places - (places[own] + towards * distance / 10))
            near = np.flatnonzero(away <= away.min() + 0.01)
            wanted = near[np.abs(places[near] - places[own]).argmin()] if away.min() <= half + 0.01 else own
            assert number == wanted


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """Five slices with a gap below the last two, and a slice alone."""
    folder = tmp_path_factory.mktemp("data")
    places = [[0.0, 0.0, z] for z in (0.0, 2.5, 5.0, 12.5, 15.0)]
    write_series(folder / "in" / "one", phantom(5, seed=1), series="one", positions=places)
    write_series(folder / "in" / "two", phantom(1, seed=2), series="two", PatientID="another")
    build_store([folder / "in"], folder / "store", key=KEY, progress=False)
    return SliceStore(folder / "store")


def test_a_data_set_gives_them_whatever_filters_leave_out(store: SliceStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "medssl_monai")
    series = max(store.series_ids, key=lambda one: len(store.select([["series_id", "==", one]])))
    volume = store.read_series(series)
    wanted = [[0, 0, 1], [0, 1, 2], [1, 2, 2], [3, 3, 4], [3, 4, 4]]
    plain = SliceDataset(store, channel_spacing_mm=2.5)
    assert "channel_spacing_mm 2.5: 5 of 6 slices have no neighbour on one side or both (1 on both), and" in caplog.text
    every = {(item["series_id"], item["slice"]): item["image"].numpy() for item in (plain[i] for i in range(6))}
    for number, numbers in enumerate(wanted):
        assert np.array_equal(every[series, number], volume[numbers])
    few: Any = SliceDataset(store, [["series_id", "==", series], ["slice", "in", [1, 4]]], channel_spacing_mm=2.5)
    assert np.array_equal(few[0]["image"], volume[[0, 1, 2]]) and np.array_equal(few[1]["image"], volume[[3, 4, 4]])
    named = SliceDataset(store, rows=[{"series_id": series, "slice": 1, "label": 7}], channel_spacing_mm=2.5)
    assert np.array_equal(named[0]["image"], volume[[0, 1, 2]])
    assert set(named[0]) == {*plain[0], "label"}, "an item has no entries of its own for them"
    whole = SliceDataset(store, rows=store.select([["series_id", "==", series]]), channel_spacing_mm=2.5)
    assert np.array_equal(whole[2]["image"], volume[[1, 2, 2]])
    partnered = SliceDataset(store, partners=lambda key: (key.index + 1) % 6, channel_spacing_mm=2.5)
    item = partnered[SampleKey(0, 0)]
    assert np.array_equal(item["partner_slice"]["image"], partnered[SampleKey(0, 1)]["image"])


def test_the_transform_says_which_are_needed(store: SliceStore) -> None:
    series = max(store.series_ids, key=lambda one: len(store.select([["series_id", "==", one]])))
    rows = [{"series_id": series, "slice": 1}]
    view = LabelledViewd(image_size=20, window="wide", channel_spacing_mm=2.5, augment=False)
    image = SliceDataset(store, rows=rows, transform=view)[0]["image"]
    alone = LabelledViewd(image_size=20, window="wide", augment=False)
    slices = [SliceDataset(store, rows=[{**rows[0], "slice": n}], transform=alone)[0]["image"][0] for n in range(3)]
    assert all((a == b).all() for a, b in zip(image, slices, strict=True))
    assert not (image[0] == image[1]).all()
    with pytest.raises(ValueError, match=r"\(1, 20, 16\): channel_spacing_mm 2.5 needs a slice between its neighbours"):
        view(SliceDataset(store, rows=rows)[0])


def test_lone_slices_are_refused_for_training_and_repeated_where_they_are_named(
    store: SliceStore, caplog: pytest.LogCaptureFixture
) -> None:
    series = min(store.series_ids, key=lambda one: len(store.select([["series_id", "==", one]])))
    with pytest.raises(ConfigError, match=r"channel_spacing_mm 2\.5: .*none of 1 slices has such a neighbour"):
        SliceDataset(store, [["series_id", "==", series]], channel_spacing_mm=2.5)
    named = SliceDataset(store, rows=[{"series_id": series, "slice": 0}], channel_spacing_mm=2.5)
    assert np.array_equal(named[0]["image"], store.read_series(series)[[0, 0, 0]])
    SliceDataset(store, rows=[{"series_id": series, "slice": 0}], channel_spacing_mm=2.5)
    (record,) = caplog.records  # once
    assert record.levelno == logging.WARNING and "1 of 1 slices" in record.getMessage()


def test_without_a_spacing_nothing_is_looked_for(store: SliceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.store.beside.neighbouring_slices", None)
    assert SliceDataset(store, transform=LabelledViewd(augment=False))[0]["image"].shape == (3, 224, 224)
    assert SliceDataset(Path(store.path))[0]["image"].shape == (1, 20, 16)
