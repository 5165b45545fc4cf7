"""Dates become days since a patient's first study, and no date stands in a store, not even before it is finished."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.errors import StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.lookup import find_series
from medssl_monai.store.pseudonyms import shifted_day
from medssl_monai.store.records import NOTE_KEY
from tests.ingest.dicom_fixtures import KEY, phantom, tree_bytes, uid, write_series

DAYS = {"a1": ("A", "20190228"), "a2": ("A", "20190301"), "a3": ("A", "2020.03.01"), "b1": ("B", "19000101")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with pydicom.config.disable_value_validation():
        write_all(tmp_path)
    return tmp_path / "in"


def write_all(tmp_path: Path) -> None:
    for seed, (series, (patient, day)) in enumerate(DAYS.items()):
        write_series(tmp_path / "in" / series, phantom(2, seed=seed), series=series, PatientID=patient, StudyDate=day)
    for patient, odd in (("A", None), ("C", ""), ("D", "20190230"), ("E", "3 May"), ("F", "1999")):
        series = f"none {patient}"
        write_series(tmp_path / "in" / series, phantom(2), series=series, PatientID=patient, StudyDate=odd)


def days(store: SliceStore) -> dict[str, int | None]:
    names = {find_series(store, uid(name), KEY): name for name in (*DAYS, *(f"none {letter}" for letter in "ACDEF"))}
    return {names[row["series_id"]]: row["study_day"] for row in store.select()}


def test_days_count_from_each_patients_first(source: Path, tmp_path: Path) -> None:
    build_store([source], tmp_path / "store", key=KEY, progress=False)
    found = days(SliceStore(tmp_path / "store"))
    assert {name: found[name] for name in DAYS} == {"a1": 0, "a2": 1, "a3": 367, "b1": 0}
    assert {found[f"none {letter}"] for letter in "ACDEF"} == {None}


def test_order_and_workers_do_not_show(source: Path, tmp_path: Path) -> None:
    """An earlier study that comes later moves the days of what is there."""
    build_store([source], tmp_path / "whole", key=KEY, progress=False, workers=2)
    build_store([source / "a3", source / "b1"], tmp_path / "parts", key=KEY, progress=False)
    assert SliceStore(tmp_path / "parts").index.column("study_day").to_pylist() == [0, 0, 0, 0]
    build_store([source], tmp_path / "parts", key=KEY, progress=False)
    assert tree_bytes(tmp_path / "whole") == tree_bytes(tmp_path / "parts")


def test_parts_tell_no_date(source: Path, tmp_path: Path) -> None:
    """Series of two patients of one day differ by a number that only the key gives."""
    write_series(source / "g", phantom(2, seed=7), series="g", PatientID="G", StudyDate="20190228")
    stored: list[list[int]] = []
    for key in (KEY, b"another key of 16 bytes"):
        build_store([source], tmp_path / str(len(stored)), key=key, progress=False)
        store = SliceStore(tmp_path / str(len(stored)))
        series = [find_series(store, uid(name), key) for name in ("a1", "a2", "g")]
        parts = [pq.read_table(store.path / "series" / f"{name}.parquet") for name in series]
        stored.append([part.column("study_day").to_pylist()[0] for part in parts])
    assert [second - first for first, second, _ in stored] == [1, 1]
    assert len({abs(first - third) for first, _, third in stored}) == 2
    assert len({value for values in stored for value in values}) == 6
    assert min(min(values) for values in stored) > 800_000


@given(st.text(max_size=20), st.integers(1, 3_652_059), st.integers(1, 3_652_059))
def test_shift_keeps_distances_and_fits(patient: str, one: int, other: int) -> None:
    first, second = (shifted_day(KEY, patient, day) for day in (one, other))
    assert second - first == other - one
    assert 0 < first < 2**31


def test_store_of_the_older_schema_is_refused(source: Path, tmp_path: Path) -> None:
    """Finished or not; the sentence says what to do."""
    out = tmp_path / "old"
    build_store([source / "a1"], out, key=KEY, progress=False)
    description = json.loads((out / "store.json").read_text())
    (out / "store.json").write_text(json.dumps({**description, "schema_version": 1}))
    for attempt in (lambda: SliceStore(out), lambda: build_store([source], out, key=KEY, progress=False)):
        with pytest.raises(StoreError, match="has schema version 1, this program reads 2; ingest the source again"):
            attempt()
    (out / "store.json").unlink()
    (part,) = (out / "series").glob("*.parquet")
    table = pq.read_table(part)
    note = json.loads(table.schema.metadata[NOTE_KEY])
    del note["schema_version"]
    old = table.drop_columns(["study_day"]).replace_schema_metadata({NOTE_KEY: json.dumps(note).encode()})
    pq.write_table(old, part)
    with pytest.raises(StoreError, match="has schema version 1, this program reads 2; ingest the source again"):
        build_store([source], out, key=KEY, progress=False)
