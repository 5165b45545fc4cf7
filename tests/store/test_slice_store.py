from __future__ import annotations

import json
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from medssl_monai.errors import StoreError
from medssl_monai.ingest import Outcome, Reason, SliceStore, Verdict
from medssl_monai.store.records import SeriesHeader, SeriesNote, SliceRecord, Voi
from medssl_monai.store.schema import COLUMNS
from medssl_monai.store.verdicts import merge_verdicts
from medssl_monai.store.writer import StoreWriter
from tests.ingest.dicom_fixtures import tree_bytes


def put(writer: StoreWriter, series_id: str, volume: np.ndarray, modality: str = "CT") -> None:
    shape = (volume.shape[0], volume.shape[1], volume.shape[2])
    header = SeriesHeader(series_id, "p" + series_id, "f", modality, "axial", shape, affine=tuple(np.eye(4).flat))
    verdict = Verdict(Outcome.ACCEPTED, "series", "f", series_id, slices=shape[0], modality=modality)
    records = (SliceRecord(pixels, z_mm=float(i), spacing_mm=(1, 2)) for i, pixels in enumerate(volume))
    writer.write(header, records, lambda _: SeriesNote((), (verdict,), writer.key_check))


@pytest.fixture
def store(tmp_path: Path) -> SliceStore:
    writer = StoreWriter(tmp_path / "store", "key")
    rng = np.random.default_rng(0)
    put(writer, "sb", rng.integers(-1000, 2000, (4, 9, 7)).astype(np.int16))
    put(writer, "sa", rng.integers(-1000, 2000, (3, 5, 6)).astype(np.int16), "MR")
    writer.finish([])
    return SliceStore(tmp_path / "store")


@settings(max_examples=15, deadline=None)
@given(volume=hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=3, max_side=20)))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, volume: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("store")
    writer = StoreWriter(path, "key")
    put(writer, "sx", volume)
    writer.finish([])
    store = SliceStore(path)
    assert np.array_equal(store.read_series("sx"), volume)
    for row in store.select():
        pixels = store.read("sx", row["slice"])
        assert np.array_equal(pixels, volume[row["slice"]])
        assert (row["hu_min"], row["hu_max"]) == (pixels.min(), pixels.max())
        assert (row["rows"], row["columns"]) == pixels.shape


def test_index_is_sorted_and_whole(store: SliceStore) -> None:
    rows = store.select()
    assert [(row["series_id"], row["slice"]) for row in rows] == [("sa", i) for i in range(3)] + [
        ("sb", i) for i in range(4)
    ]
    assert list(rows[0]) == list(COLUMNS)
    assert len(store) == 7
    assert store.series_ids == ["sa", "sb"]
    assert rows[0]["affine"] == list(np.eye(4).flat)


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        (None, 7),
        ([], 7),
        ([["modality", "==", "CT"]], 4),
        ([["modality", "==", "CT"], ["slice", ">", 1]], 2),
        ([("modality", "in", ["CT", "MR"])], 7),
        ([[["modality", "==", "MR"]], [["slice", "==", 3]]], 4),
        ([["window_width", ">", 0]], 0),
    ],
)
def test_select(store: SliceStore, filters: list[list[object]] | None, count: int) -> None:
    assert len(store.select(filters)) == count


@pytest.mark.parametrize("filters", [[["colour", "==", 1]], [["slice", "~", 1]], [["slice", 1]]])
def test_filters_that_mean_nothing(store: SliceStore, filters: list[list[object]]) -> None:
    with pytest.raises(StoreError, match="filter"):
        store.select(filters)


def test_what_is_not_there(store: SliceStore) -> None:
    with pytest.raises(StoreError, match="slices 0 to 3, not 4"):
        store.read("sb", 4)
    with pytest.raises(StoreError, match="has no series 'sz'"):
        store.read("sz", 0)


def test_no_store_unfinished_store_other_version(store: SliceStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="medssl ingest SOURCE"):
        SliceStore(tmp_path / "nothing")
    description = store.path / "store.json"
    content = json.loads(description.read_text())
    description.write_text(json.dumps({**content, "schema_version": 99}))
    with pytest.raises(StoreError, match="schema version 99, this program reads 2"):
        SliceStore(store.path)
    description.write_text("{")
    with pytest.raises(StoreError, match="not readable"):
        SliceStore(store.path)
    description.unlink()
    with pytest.raises(StoreError, match="did not finish; run the same"):
        SliceStore(store.path)


def test_refuses_what_is_no_store(store: SliceStore, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").write_text("dear")
    with pytest.raises(StoreError, match="neither empty nor a slice store"):
        StoreWriter(tmp_path / "other", "key")
    with pytest.raises(StoreError, match="is a file"):
        StoreWriter(tmp_path / "other" / "thesis.doc", "key")
    with pytest.raises(StoreError, match="another key"):
        StoreWriter(store.path, "another")


def test_order_of_writing_does_not_show(store: SliceStore, tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "second", "key")
    for series_id, modality in (("sa", "MR"), ("sb", "CT")):
        put(writer, series_id, store.read_series(series_id), modality)
        writer.finish([])
    assert tree_bytes(tmp_path / "second") == tree_bytes(store.path)
    assert SliceStore(tmp_path / "second").fingerprint == store.fingerprint


def test_fingerprint_sees_a_voxel(store: SliceStore, tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "second", "key")
    for series_id, modality in (("sa", "MR"), ("sb", "CT")):
        volume = store.read_series(series_id)
        volume[0, 2, 2] += series_id == "sb"
        put(writer, series_id, volume, modality)
    writer.finish([])
    assert SliceStore(tmp_path / "second").fingerprint != store.fingerprint


def test_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "store", "key")
    header = SeriesHeader("sx", "p", "f", "CT", "axial", (2, 3, 3))

    def slices() -> object:
        yield SliceRecord(np.zeros((3, 3), np.int16))
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        writer.write(header, slices(), lambda _: SeriesNote((), (), "key"))  # type: ignore[arg-type]
    assert tree_bytes(tmp_path / "store") == {}


def _sum(store: SliceStore) -> int:
    return int(store.read("sb", 2).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")  # Python 3.12 says so of every fork
def test_other_processes_read(store: SliceStore, method: str) -> None:
    """With an array already open here: its handle must not be shared."""
    expected = _sum(store)
    with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        assert pool.submit(_sum, store).result() == expected
    assert _sum(store) == expected


def test_pickle_carries_the_path_only(store: SliceStore) -> None:
    store.read("sb", 0)
    assert len(pickle.dumps(store)) < 500
    assert _sum(pickle.loads(pickle.dumps(store))) == _sum(store)


def test_series_come_one_by_one(store: SliceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for rows in (1, 2, 1024):
        monkeypatch.setattr("medssl_monai.store.reader.BATCH_ROWS", rows)
        groups = list(store.each_series())
        assert [group[0]["series_id"] for group in groups] == store.series_ids
        assert [row for group in groups for row in group] == store.select()


def test_many_series_do_not_stay_open(store: SliceStore) -> None:
    store = SliceStore(store.path, open_arrays=1)
    first = store.read("sa", 0)
    store.read("sb", 0)
    assert np.array_equal(store.read("sa", 0), first)
    assert len(store._local.arrays) == 1


def test_verdicts_survive_json_and_the_later_run_wins() -> None:
    first = Verdict(Outcome.REJECTED, "file", "fa", reason=Reason.UNREADABLE, detail="is cut short")
    second = Verdict(Outcome.REPAIRED, "series", "fb", "sb", 3, 2, "CT", repairs=("x",), flags=("gap",))
    assert [Verdict.from_json(json.loads(json.dumps(v.to_json()))) for v in (first, second)] == [first, second]
    newer = Verdict(Outcome.ACCEPTED, "series", "fb", "sb", 4, 4, "CT")
    assert merge_verdicts([first, second], [newer]) == [first, newer]


def test_notes_of_earlier_programs_are_read() -> None:
    """Version 2 had neither windows nor images left out at first."""
    note = SeriesNote(("i1",), (), "key", "sha", ("b1",), ((0, Voi(((40.0, 400.0),))),))
    assert SeriesNote.from_bytes(note.to_bytes()) == note
    values = json.loads(note.to_bytes())
    del values["undecodable"], values["voi"]
    earlier = SeriesNote.from_bytes(json.dumps(values).encode())
    assert earlier == SeriesNote(("i1",), (), "key", "sha")
    assert earlier.voi_of(3) == Voi()
