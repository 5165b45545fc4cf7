"""Stores at URLs: equal to the folder that was copied there, slice by slice, with a bounded copy on the local disk."""

import json
import logging
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader
from typer.testing import CliRunner

from medssl_monai.cli.main import app
from medssl_monai.errors import ConfigError, InputError, StoreError
from medssl_monai.ingest.open_store import open_store
from medssl_monai.resources import user_cache
from medssl_monai.store import objects, selection
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.joined import JoinedStore
from medssl_monai.store.places import is_store, store_at
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.remote import RemoteStore
from medssl_monai.store.slice_cache import LIMIT_VARIABLE, SliceCache, cache_limit
from medssl_monai.store.urls import remote_url
from tests.store.object_storage import s3_server, upload

UPPER = [["slice", ">=", 3]]


@pytest.fixture(scope="module")
def s3(phantom_store: SliceStore) -> Iterator[str]:
    """URL of the phantom's store."""
    with s3_server() as bucket:
        upload(phantom_store.path, "thorax.store")
        yield f"{bucket}/thorax.store"


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return user_cache()


class Requests(list[tuple[str, int, int | None]]):
    """What is read of files at URLs: name, begin, end."""


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> Requests:
    made, read = Requests(), objects.Objects.read

    def counted(self: objects.Objects, name: str, begin: int = 0, end: int | None = None) -> bytes:
        made.append((name, begin, end))
        return read(self, name, begin, end)

    monkeypatch.setattr(objects.Objects, "read", counted)
    return made


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("s3://bucket/a.store", "s3://bucket/a.store"),
        (Path("s3://bucket/a.store/"), "s3://bucket/a.store"),
        ("S3://bucket/a.store//", "s3://bucket/a.store"),
        ("file:///data/a.store", "file:///data/a.store"),
        (Path("file:///data/a.store"), "file:///data/a.store"),
        ("memory://a.store", "memory://a.store"),
        ("/data/a.store", None),
        ("a.store", None),
        ("C:/data/a.store", None),
        ("study: one/a.store", None),
        ("", None),
    ],
)
def test_urls_are_told_from_folders(place: str | Path, url: str | None) -> None:
    assert remote_url(place) == url


def test_a_folder_that_looks_like_a_url_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s3:" / "bucket").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert remote_url("s3://bucket") is None


@pytest.mark.parametrize("protocol", ["file", "s3"])
def test_it_equals_the_folder(protocol: str, phantom_store: SliceStore, empty_cache: Path, s3: str) -> None:
    url = s3 if protocol == "s3" else f"file://{phantom_store.path}"
    store = store_at(Path(url))
    assert isinstance(store, RemoteStore) and store.place == url and is_store(url)
    assert repr(store) == f"RemoteStore('{url}': 5 series, 30 slices)"
    assert store.fingerprint == phantom_store.fingerprint
    assert store.select(UPPER) == phantom_store.select(UPPER)
    assert store.series_ids == phantom_store.series_ids and store.verdicts == phantom_store.verdicts
    for series_id in store.series_ids:
        assert np.array_equal(store.read_series(series_id), phantom_store.read_series(series_id))
        assert np.array_equal(store.read(series_id, 2), phantom_store.read(series_id, 2))
        assert store.note(series_id) == phantom_store.note(series_id)
    with pytest.raises(StoreError, match=f"{url}: series .* has slices 0 to 5, not 6"):
        store.read(store.series_ids[0], 6)
    for name in ("nothing", "../index"):
        with pytest.raises(StoreError, match=f"{url}: "):
            store.read(name, 0)


def test_slices_are_fetched_one_by_one_and_once(s3: str, empty_cache: Path, requests: Requests) -> None:
    store = RemoteStore(s3)
    assert [name for name, *_ in requests] == ["store.json"]
    first = store.series_ids[0]
    store.read(first, 3)
    (_, head, end), (_, offsets, _), (name, begin, last) = requests[1:]
    assert name == f"series/{first}.b2nd"
    assert last is not None and (head, end) == (0, 512) and begin < last <= offsets  # one slice alone
    assert 0 < last - begin < 64 * 64 * 2
    store.read(first, 3)
    assert len(requests) == 4
    store.read(first, 4)
    assert len(requests) == 5
    again = RemoteStore(s3)
    again.read(first, 4)
    assert [name for name, *_ in requests[5:]] == ["store.json"]  # whether it is still the same


def test_a_new_content_is_seen(phantom_store: SliceStore, tmp_path: Path, empty_cache: Path) -> None:
    there = tmp_path / "there"
    shutil.copytree(phantom_store.path, there)
    url = f"file://{there}"
    before = RemoteStore(url)
    assert len(before) == 30
    described = json.loads((there / "store.json").read_text())
    (there / "store.json").write_text(json.dumps({**described, "slices": 29, "fingerprint": "other"}))
    after = RemoteStore(url)
    assert len(after) == 29 and after.path != before.path
    with pytest.raises(StoreError, match="was written while it was read; run the same command again"):
        pickle.loads(pickle.dumps(before))
    (there / "store.json").write_text(json.dumps({**described, "schema_version": 99}))
    with pytest.raises(StoreError, match=f"store {url}: has schema version 99"):
        RemoteStore(url)
    (there / "store.json").write_text("[")
    with pytest.raises(StoreError, match=f"store {url}: store.json is not readable"):
        RemoteStore(url)


def test_what_is_kept_of_one_url_is_not_taken_for_another(
    phantom_store: SliceStore, tmp_path: Path, empty_cache: Path
) -> None:
    """A store that copies another's store.json cannot put its slices in the other's place."""
    first, second = phantom_store.series_ids[:2]
    shutil.copytree(phantom_store.path, tmp_path / "false")
    shutil.copy(phantom_store.path / "series" / f"{second}.b2nd", tmp_path / "false" / "series" / f"{first}.b2nd")
    false = RemoteStore(f"file://{tmp_path / 'false'}")
    assert np.array_equal(false.read(first, 3), phantom_store.read(second, 3))
    assert np.array_equal(RemoteStore(f"file://{phantom_store.path}").read(first, 3), phantom_store.read(first, 3))


def test_a_cache_that_cannot_be_written_is_told(
    phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"cannot be written \(.*\); free space there or correct its permissions"):
        RemoteStore(f"file://{phantom_store.path}")


def test_nothing_is_kept_where_the_limit_is_0(
    s3: str, empty_cache: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, "0")
    store = RemoteStore(s3)
    for _ in range(2):
        store.read(store.series_ids[0], 3)
    assert len(requests) == 5
    assert not (empty_cache / "slices").exists()


@pytest.mark.parametrize("given", ["many", "-1", "inf", "nan", ""])
def test_a_limit_that_is_none(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LIMIT_VARIABLE, given)
    with pytest.raises(ConfigError, match=f"{LIMIT_VARIABLE}: must be a number of gigabytes"):
        cache_limit()


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    cache = SliceCache(10_000, tmp_path / "cache")
    for number in range(95):
        cache.put(str(number), bytes([number]) * 100)
        os.utime(cache._file(str(number)), (number, number))
    assert cache.get("0") == bytes(100)  # used, so that it is the youngest
    for number in range(95, 105):
        cache.put(str(number), bytes([number]) * 100)
    assert cache.get("0") is not None and cache.get("104") is not None
    assert cache.get("1") is None
    kept = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert 9_000 <= sum(file.stat().st_size for file in kept) <= 10_200


def test_a_full_disk_keeps_nothing_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SliceCache(10_000, tmp_path / "cache")
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    cache.put("a", b"a")
    assert cache.get("a") is None


def test_a_damaged_copy_is_fetched_again(s3: str, empty_cache: Path, phantom_store: SliceStore) -> None:
    store = RemoteStore(s3)
    first = store.series_ids[0]
    store.read(first, 3)
    for file in (empty_cache / "slices").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:-20])
    again = RemoteStore(s3)
    assert np.array_equal(again.read(first, 3), phantom_store.read(first, 3))
    RemoteStore(s3).read(first, 3)


@pytest.mark.parametrize("damage", ["cut", "offsets", "slice", "header", "more"])
def test_a_damaged_array_is_told(damage: str, phantom_store: SliceStore, tmp_path: Path, empty_cache: Path) -> None:
    import blosc2

    there = tmp_path / "there"
    shutil.copytree(phantom_store.path, there)
    first = phantom_store.series_ids[0]
    file = there / "series" / f"{first}.b2nd"
    if damage == "more":
        array = blosc2.open(str(file), mode="a")
        array.schunk.vlmeta["x"] = 1
        del array
    else:
        content = bytearray(file.read_bytes())
        if damage == "cut":
            content = content[: len(content) // 2]
        else:
            place = {"offsets": -len(content) // 8, "slice": 184, "header": 30}[damage]
            content[place : place + 16] = b"\xff" * 16
            if damage == "offsets":
                frame_end = int.from_bytes(content[39:47], "big") + int.from_bytes(content[11:15], "big")
                content[frame_end : frame_end + 40] = b"\xff" * 40
        file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=f"there: the array of series {first} is damaged"):
        RemoteStore(f"file://{there}").read(first, 0)


def test_what_is_no_store(tmp_path: Path, empty_cache: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"file://{tmp_path}/nothing", f"{s3}/nothing", "s3://nobodys/thorax.store"):
        with pytest.raises(StoreError, match=f"store {url}: no slice store there"):
            RemoteStore(url)
    with pytest.raises(StoreError, match=r"nosuch:// is no protocol that fsspec knows; give a folder, or a URL"):
        open_store("nosuch://bucket/a.store")
    with pytest.raises(StoreError, match=r"must not hold credentials, which runs would record") as refused:
        open_store("s3://me:secret@bucket/a.store")
    assert "secret" not in str(refused.value)
    with pytest.raises(StoreError, match="is a URL, which is not taken here"):
        SliceStore("s3://bucket/a.store")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreError, match=r"store.json cannot be read \(.*\); check the URL, the network and the cred"):
        RemoteStore(s3)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import fsspec

    def missing(protocol: str, **_: Any) -> None:
        raise ImportError(f"install {protocol}")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    with pytest.raises(
        StoreError, match=r"s3 needs a package that is not installed; `pip install 'medssl-monai\[s3\]'`"
    ):
        RemoteStore("s3://bucket/a.store")


def test_a_copy_without_its_index_is_refused(phantom_store: SliceStore, tmp_path: Path, empty_cache: Path) -> None:
    (tmp_path / "there").mkdir()
    shutil.copy(phantom_store.path / "store.json", tmp_path / "there")
    with pytest.raises(StoreError, match=r"index.parquet is missing; copy the whole folder"):
        RemoteStore(f"file://{tmp_path}/there")
    assert not any((empty_cache / "stores_elsewhere").rglob("store.json"))


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read(start: str, s3: str, empty_cache: Path, phantom_store: SliceStore) -> None:
    store = store_at(s3)
    store.read(store.series_ids[0], 0)  # connections that workers must not share
    data = SliceDataset(store, UPPER)
    loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context=start)
    batches = [batch["image"].numpy() for batch in loader]
    local = SliceDataset(phantom_store, UPPER)
    assert np.array_equal(np.concatenate(batches), np.stack([local[index]["image"] for index in range(len(local))]))


def test_it_may_be_pickled(s3: str, empty_cache: Path) -> None:
    store = RemoteStore(s3)
    other = pickle.loads(pickle.dumps(store))
    assert np.array_equal(other.read(store.series_ids[0], 1), store.read(store.series_ids[0], 1))


def test_kept_selections_are_on_this_machine(
    s3: str, empty_cache: Path, phantom_store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "KEPT_FROM", 0)
    store = RemoteStore(s3)
    assert len(store.selection(UPPER)) == 15
    assert next(store.path.rglob("rows.npy")).is_relative_to(empty_cache)


def test_it_is_joined_with_others(
    s3: str, empty_cache: Path, phantom_store: SliceStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    described = json.loads((phantom_store.path / "store.json").read_text())
    shutil.copytree(phantom_store.path, tmp_path / "copy")
    (tmp_path / "copy" / "store.json").write_text(json.dumps({**described, "fingerprint": "other"}))
    with caplog.at_level(logging.WARNING):
        joined = open_store([s3, tmp_path / "copy"])  # type: ignore[list-item]
    assert isinstance(joined, JoinedStore)
    assert joined.place == f"{s3} + {tmp_path / 'copy'}"
    assert len(joined) == 30 and f"store {tmp_path / 'copy'}: 5 of its series" in caplog.text
    with pytest.raises(InputError, match=f"stores and other folders cannot be mixed.* found {s3}, {tmp_path}"):
        open_store([s3, tmp_path])  # type: ignore[list-item]


def test_commands_take_a_url(s3: str, empty_cache: Path, phantom_labels: Path, phantom_store: SliceStore) -> None:
    source = phantom_labels.parent / "phantom-001"
    told = [CliRunner().invoke(app, ["where", place, str(source)]).output for place in (s3, str(phantom_store.path))]
    assert told[0] == told[1] and "accepted" in told[0]
    refused = CliRunner().invoke(app, ["verify", s3])
    assert isinstance(refused.exception, StoreError) and "is a URL, which is not taken here" in str(refused.exception)
