"""Two runs never write into one store at a time; a killed run locks nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from medssl_monai.errors import StoreError
from medssl_monai.ingest import build_store
from medssl_monai.ingest.open_store import cached_store_path, open_store
from medssl_monai.store.disk import LOCK_NAME, exclusive
from tests.ingest.dicom_fixtures import KEY, phantom, tree_bytes, write_series

HOLDER = """
import sys, time
from pathlib import Path
from medssl_monai.store.disk import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_series(tmp_path / "in", phantom(2))
    return tmp_path / "in"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that writes into the store."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_second_run_is_refused_in_one_sentence(
    source: Path, tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    from medssl_monai.cli.main import main

    sys_argv, sys.argv = sys.argv, ["medssl", "ingest", str(source), "--out", str(tmp_path / "store")]
    try:
        with pytest.raises(SystemExit) as stopped:
            main()
    finally:
        sys.argv = sys_argv
    assert stopped.value.code == 1
    printed = capsys.readouterr().err.strip()
    assert "another run writes into it at this moment" in printed
    assert "Traceback" not in printed
    assert (tmp_path / "store" / LOCK_NAME).exists()
    assert not (tmp_path / "store" / "series").exists()


def test_killed_run_locks_nothing(source: Path, tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "store" / LOCK_NAME).exists()
    build_store([source], tmp_path / "store", key=KEY, progress=False)
    build_store([source], tmp_path / "other", key=KEY, progress=False)
    assert not (tmp_path / "store" / LOCK_NAME).exists()
    assert tree_bytes(tmp_path / "store") == tree_bytes(tmp_path / "other")


def test_two_runs_on_the_same_files_share_one_cache(
    source: Path, tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder stands for the first run; it ends while the second waits."""
    waits: list[float] = []

    def end_of_the_first(seconds: float) -> None:
        waits.append(seconds)
        holder.kill()
        holder.wait()

    held = (tmp_path / "store").rename(tmp_path / "held")  # the lock's file goes along
    (tmp_path / "cache").mkdir()
    held.rename(cached_store_path([source], tmp_path / "cache"))
    monkeypatch.setattr(time, "sleep", end_of_the_first)
    assert len(open_store(source, cache_dir=tmp_path / "cache", key=KEY).select()) == 2
    assert len(waits) == 1


def test_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "store"):
        1 / 0  # noqa: B018
    again = exclusive(tmp_path / "store")
    with exclusive(tmp_path / "store"), pytest.raises(StoreError, match="another run"), again:
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty", "written"):
        with pytest.raises(KeyError), exclusive(tmp_path / name):
            if name == "written":
                (tmp_path / name / "series").mkdir()
            raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "written"]
