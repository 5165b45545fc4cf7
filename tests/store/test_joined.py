"""Several stores as one: order, duplicates, shares of a pass."""

import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.engines.sampler import StepBatchSampler
from medssl_monai.errors import ConfigError, InputError, StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.open_store import open_store
from medssl_monai.methods.negatives import slice_origins
from medssl_monai.store import selection
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.store.joined import JoinedStore, pass_shares
from medssl_monai.store.same_series import series_contents
from tests.ingest.dicom_fixtures import KEY, phantom, write_series

UPPER = [["slice", ">=", 1]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two stores, three and two series; one series is in both, and one patient in series of both."""
    folder = tmp_path_factory.mktemp("stores")
    for name, series in (("north", "abc"), ("south", "cd")):
        for one in series:
            patient = {"b": "P2", "d": "P2"}.get(one, f"P{one}")
            write_series(folder / name / one, phantom(4, seed=ord(one)), series=one, PatientID=patient)
        build_store([folder / name], folder / f"{name}.store", key=KEY, progress=False)
    return folder / "north.store", folder / "south.store"


@pytest.fixture(params=["small", "large"])
def joined(folders: tuple[Path, Path], request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> JoinedStore:
    if request.param == "large":
        monkeypatch.setattr(selection, "KEPT_FROM", 0)
    store = open_store(folders)
    assert isinstance(store, JoinedStore)
    return store


@pytest.mark.parametrize("filters", [None, UPPER, [UPPER, [["slice", "==", 0]]]])
def test_all_slices_are_there_once(joined: JoinedStore, filters: list[list[object]] | None) -> None:
    rows = joined.select(filters)
    data = SliceDataset(joined, filters)
    assert len(rows) == len(data) == joined.count(filters) == sum(joined.counts(filters))
    assert len({(row["series_id"], row["slice"]) for row in rows}) == len(rows) == (12 if filters == UPPER else 16)
    for number, row in enumerate(rows):
        assert data.row(number) == {name: row[name] for name in data.row(number)}
        item = data[SampleKey(0, number)]
        assert np.array_equal(item["image"][0], joined.read(row["series_id"], row["slice"]))
    assert data.pixel_count() == len(rows) * 20 * 16
    assert joined.rows_at([0, len(rows) - 1], filters, ["series_id"]) == [
        {"series_id": rows[0]["series_id"]},
        {"series_id": rows[-1]["series_id"]},
    ]
    assert [one[0]["series_id"] for one in joined.each_series()] == list(
        dict.fromkeys(r["series_id"] for r in joined.select())
    )


def test_a_patient_of_two_stores_is_one(joined: JoinedStore) -> None:
    origins = slice_origins("other_patients", joined)
    assert origins is not None
    patients = [row["patient"] for row in joined.select()]
    assert len(set(patients)) == 3
    assert len(set(zip(patients, origins.tolist(), strict=True))) == 3


def test_it_travels_to_workers(joined: JoinedStore) -> None:
    data = SliceDataset(joined, UPPER)
    other = pickle.loads(pickle.dumps(data))
    assert [other.row(number) for number in range(len(other))] == [data.row(number) for number in range(len(data))]
    assert np.array_equal(other[SampleKey(0, 11)]["image"], data[SampleKey(0, 11)]["image"])


def test_duplicates_and_other_keys_are_told(
    folders: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        store = open_store(folders)
    assert "1 of its series, such as" in caplog.text and "are taken from there" in caplog.text
    assert len(store.series_ids) == 4
    caplog.clear()
    build_store([folders[0].parent / "south"], tmp_path / "other", key=b"k" * 32, progress=False)
    with caplog.at_level(logging.WARNING):
        other = open_store([folders[0], tmp_path / "other"])
    assert len(other.series_ids) == 4  # found by the measures of its slices
    assert f"store {tmp_path / 'other'}: 1 of its series, such as" in caplog.text
    assert "were made with different keys, so a patient of two of them counts as two" in caplog.text


def test_contents_are_of_pixels_in_their_order(folders: tuple[Path, Path], tmp_path: Path) -> None:
    north = series_contents(SliceStore(folders[0]))
    assert len(set(north.values())) == len(north) == 3 and all(slices == 4 for slices, _ in north.values())
    write_series(tmp_path / "in" / "same", phantom(4, seed=ord("a")), series="other")
    write_series(tmp_path / "in" / "turned", phantom(4, seed=ord("a"))[::-1], series="turned")
    write_series(tmp_path / "in" / "less", phantom(4, seed=ord("a"))[:3], series="less")
    changed = phantom(4, seed=ord("a"))
    changed[2] += 1
    write_series(tmp_path / "in" / "changed", changed, series="changed")
    build_store([tmp_path / "in"], tmp_path / "store", key=b"k" * 32, progress=False)
    south = series_contents(SliceStore(tmp_path / "store"))
    assert len(set(south.values())) == 4
    assert len(set(south.values()) & set(north.values())) == 1


def test_what_cannot_be_joined(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[0], tmp_path / "copy")
    with pytest.raises(StoreError, match="two of them have the same content; give each once"):
        open_store([folders[0], tmp_path / "copy"])
    with pytest.raises(InputError, match="stores and other folders cannot be mixed"):
        open_store([folders[0], folders[0].parent / "south"])
    with pytest.raises(StoreError, match="none has a series 'x'"):
        open_store(folders).read("x", 0)


def test_shares_of_a_pass(joined: JoinedStore) -> None:
    """12 and 4 slices in equal shares: a pass has 4 of each, and three passes all of the larger store."""
    parts = pass_shares(joined, [1, 1])
    assert parts == [(12, 0.5), (4, 0.5)]
    sampler = StepBatchSampler(16, 2, seed=0, parts=parts)
    assert sampler.steps_per_pass == 4
    steps = iter(sampler)
    passes = [[key.index for _ in range(4) for key in next(steps)] for _ in range(6)]
    for one in passes:
        assert len(set(one)) == 8 and sum(index < 12 for index in one) == 4
        assert set(one) >= {12, 13, 14, 15}
    assert set().union(*passes[:3]) == set().union(*passes[3:]) == set(range(16))
    assert pass_shares(joined, None) is None
    kept = np.array([0, 5, 11, 13])
    assert pass_shares(joined, [3, 1], kept=kept) == [(3, 0.75), (1, 0.25)]


@pytest.mark.parametrize("shares", [[1], [1, 0], [1, -2], ["a", 1], [1, 1, 1]])
def test_shares_that_do_not_fit_are_refused(joined: JoinedStore, shares: list[object]) -> None:
    with pytest.raises(ConfigError, match="store_shares: needs a number above 0 for each of the 2 stores"):
        pass_shares(joined, shares)  # type: ignore[arg-type]


def test_a_store_without_slices_has_no_share(joined: JoinedStore) -> None:
    with pytest.raises(ConfigError, match=r"store_shares: no slice of store .*south\.store passes the filters"):
        pass_shares(joined, [1, 1], [["series_id", "in", SliceStore(joined.stores[0].path).series_ids]])
