"""Runs that are killed or terminated: nothing that identifies a patient stays longer than it must, and no row lies."""

from __future__ import annotations

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.lookup import find_series
from tests.ingest.dicom_fixtures import KEY, axial_positions, phantom, tree_bytes, write_series

TERMINATED = """
import sys, time
from medssl_monai.cli.main import main
from medssl_monai.ingest import pipeline

def take(*_):
    print("unpacked", flush=True)
    time.sleep(60)

pipeline._Run.take = take
sys.argv = ["medssl", "ingest", *sys.argv[1:]]
main()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_series(tmp_path / "first", phantom(3, seed=9), series="first")
    build_store([tmp_path / "first"], tmp_path / "store", key=KEY, progress=False)
    return tmp_path / "store"


@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_was_unpacked_goes(store: Path, tmp_path: Path, ended_by: signal.Signals) -> None:
    """At once where the run can do it; at the start of the next run where it was killed, whatever that run finds."""
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for path in write_series(tmp_path / "made", phantom(2)):
            archive.write(path, path.name)
    (tmp_path / "key").write_bytes(KEY)
    options = [str(tmp_path / "study.zip"), "--out", str(store), "--key", str(tmp_path / "key")]
    command = [sys.executable, "-c", TERMINATED, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "unpacked\n"
        assert identifiable(store)
        process.send_signal(ended_by)
        _, said = process.communicate(timeout=30)
    if ended_by is signal.SIGKILL:
        (tmp_path / "nothing").mkdir()
        with pytest.raises(NoImagesError):
            build_store([tmp_path / "nothing"], store, key=KEY, progress=False)
    else:
        assert process.returncode == 130
        assert "Traceback" not in said
    assert not identifiable(store)
    assert len(SliceStore(store)) == 3


def identifiable(store: Path) -> list[str]:
    return [name for name, content in tree_bytes(store).items() if b"Plantedname" in content]


class KilledError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("renames", range(5))
def test_a_replacement_that_is_killed_loses_nothing_and_never_lies(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """After so many of its four renames; then the store is completed by a run over other sources."""
    volume, positions = phantom(8), axial_positions(8)
    paths = write_series(tmp_path / "in", volume, positions=positions)
    for path in paths[:4]:
        path.rename(tmp_path / path.name)
    build_store([tmp_path / "in"], store, key=KEY, progress=False)
    for path in paths[:4]:
        (tmp_path / path.name).rename(path)
    done, replace = [0], Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target.parent.name == "series":
            if done[0] == renames:
                raise KilledError
            done[0] += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    if renames < 4:
        with pytest.raises(KilledError):
            build_store([tmp_path / "in"], store, key=KEY, progress=False)
    else:
        build_store([tmp_path / "in"], store, key=KEY, progress=False)
    monkeypatch.undo()
    write_series(tmp_path / "other", phantom(2, seed=5), series="other")
    build_store([tmp_path / "other"], store, key=KEY, progress=False)
    found = SliceStore(store)
    for row in found.select():
        assert (row["hu_max"], row["hu_min"]) == (
            int(found.read(row["series_id"], row["slice"]).max()),
            int(found.read(row["series_id"], row["slice"]).min()),
        )
    replaced = found.read_series(find_series(found, tmp_path / "in", KEY))
    assert np.array_equal(replaced, volume if renames >= 2 else volume[4:])
    assert len(found) == 3 + 2 + len(replaced)
    build_store([tmp_path / "in"], store, key=KEY, progress=False)
    build_store([tmp_path / name for name in ("first", "in", "other")], tmp_path / "whole", key=KEY, progress=False)
    assert tree_bytes(store) == tree_bytes(tmp_path / "whole")
