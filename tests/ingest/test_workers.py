"""The same work by one process, by several, and by a Dask cluster gives the same store."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import RLELossless

from medssl_monai.errors import InputError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.workers import Workers
from tests.ingest.dicom_fixtures import KEY, phantom, tree_bytes, write, write_series
from tests.killed_parent import left_of_a_killed


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A scheduler with two worker processes on this machine."""
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"}
    with distributed.LocalCluster(processes=True, host="127.0.0.1", **options) as running:
        yield running.scheduler_address


def process_of(item: int) -> tuple[int, int]:
    return item, os.getpid()


def test_cluster_works_in_other_processes_in_order(cluster: str) -> None:
    found = list(Workers(scheduler=cluster, progress=False).each(process_of, range(40), 40, chunk=3))
    assert [item for item, _ in found] == list(range(40))
    assert os.getpid() not in {process for _, process in found}


def test_cluster_gives_the_same_bytes(cluster: str, tmp_path: Path) -> None:
    for seed in range(5):
        write_series(tmp_path / "in" / str(seed), phantom(4, seed=seed), series=str(seed))
    (tmp_path / "in" / "text").write_text("no image")
    plain = build_store([tmp_path / "in"], tmp_path / "plain", key=KEY, progress=False, report=True)
    spread = build_store(
        [tmp_path / "in"], tmp_path / "spread", key=KEY, progress=False, report=True, scheduler=cluster
    )
    assert spread.verdicts == plain.verdicts
    assert tree_bytes(tmp_path / "spread") == tree_bytes(tmp_path / "plain")
    assert len(SliceStore(tmp_path / "spread").series_ids) == 5
    assert build_store([tmp_path / "in"], tmp_path / "spread", key=KEY, progress=False, scheduler=cluster).added == 0


def test_items_are_asked_for_little_by_little() -> None:
    asked = []

    def items() -> Iterator[int]:
        for item in range(1000):
            asked.append(item)
            yield item

    with Workers(processes=2, progress=False) as workers:
        results = workers.each(process_of, items(), 1000, chunk=3, here=10)
        first = [next(results) for _ in range(20)]
        assert len(asked) < 100
        both = [*first, *results]
    assert [item for item, _ in both] == list(range(1000))
    assert {process for _, process in both[:10]} == {os.getpid()}
    assert os.getpid() not in {process for _, process in both[10:]}


def die_at_some(item: int) -> int:
    if item in (3, 7):
        os.abort()
    return item


def test_a_process_that_dies_costs_its_item_only() -> None:
    left = [0, 1, 2, -3, 4, 5, 6, -7, 8]
    with Workers(processes=2, progress=False) as workers:
        assert list(workers.each(die_at_some, range(9), 9, crashed=lambda item: -item)) == left
        with pytest.raises(BrokenProcessPool):
            list(workers.each(die_at_some, range(9), 9))
        assert list(workers.each(die_at_some, range(3), 3)) == [0, 1, 2]
    with Workers(progress=False) as alone:
        assert list(alone.each(die_at_some, range(9), 9, crashed=lambda item: -item, apart=True)) == left


@pytest.mark.slow
def test_a_cluster_process_that_dies_costs_its_item_only(cluster: str) -> None:
    workers = Workers(scheduler=cluster, progress=False)
    assert list(workers.each(die_at_some, range(2, 5), 3, crashed=lambda item: -item)) == [2, -3, 4]


ORPHANS = """
from medssl_monai.ingest.workers import Workers
from sleep import sleep

with Workers(2, progress=False) as workers:
    list(workers.each(sleep, range(4), 4))
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    assert left_of_a_killed(ORPHANS, tmp_path) == []


SCRIPT = """
import sys
from pathlib import Path
from medssl_monai.ingest import build_store

print("begun", flush=True)
build_store([Path(sys.argv[1])], Path(sys.argv[2]), key=b"a key for tests, 16 bytes or more", workers=int(sys.argv[3]))
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_a_script_needs_no_guard(tmp_path: Path, workers: int) -> None:
    """Decoders run in other processes, also with one worker, and these do not run the script again."""
    for seed in range(2):
        for path in write_series(tmp_path / "in" / str(seed), phantom(3, seed=seed), series=str(seed)):
            image = pydicom.dcmread(path)
            image.compress(RLELossless, generate_instance_uid=False)
            write(image, path)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, *(str(tmp_path / name) for name in ("script.py", "in", "store")), str(workers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "begun\n"
    assert len(SliceStore(tmp_path / "store")) == 6


def end() -> None:
    os._exit(3)


def test_processes_that_cannot_be_started_are_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.ingest.workers._begin", end)
    with Workers(processes=2, progress=False) as workers:
        for crashed in (None, lambda item: -item):
            with pytest.raises(InputError, match="processes end before they do anything"):
                list(workers.each(die_at_some, range(4), 4, crashed=crashed))


def test_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="needs the extra dask")
    monkeypatch.setattr("medssl_monai.cluster.SECONDS_TO_CONNECT", 0.5)
    with pytest.raises(InputError, match="no Dask scheduler answers"):
        list(Workers(scheduler="tcp://127.0.0.1:9").each(process_of, [1], 1))
