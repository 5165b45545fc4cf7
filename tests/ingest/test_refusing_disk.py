"""Stores that cannot be made or written: one sentence that names the store, and no trace of a half-written series."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.errors import InputError
from medssl_monai.ingest import build_store
from tests.ingest.dicom_fixtures import KEY, tree_bytes, write_series


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Noise, of which 80 kB are left in the store."""
    noise = np.random.default_rng(0).integers(-1000, 1000, (2, 200, 200)).astype(np.int16)
    write_series(tmp_path / "in", noise)
    return tmp_path / "in"


@pytest.mark.parametrize("out", ["/dev/null/store", "/proc/store"])
def test_a_store_where_none_can_be(source: Path, out: str) -> None:
    if not Path(out).parent.exists():
        pytest.skip("needs the files of Linux")
    with pytest.raises(InputError, match=rf"{out}: cannot be written \(.*\); .* name another folder"):
        build_store([source], Path(out), key=KEY, progress=False)


LIMITED = """
import resource, sys
from medssl_monai.cli.main import main

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = ["medssl", "ingest", *sys.argv[2:]]
main()
"""


def test_a_disk_that_takes_no_more(source: Path, tmp_path: Path) -> None:
    """A limit on the size of files refuses as a full disk does, in C too; room made, the run goes on."""
    (tmp_path / "key").write_bytes(KEY)
    options = [str(source), "--out", str(tmp_path / "store"), "--key", str(tmp_path / "key")]
    command = [sys.executable, "-c", LIMITED, "20000", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "store: cannot be written (the disk took no more slices); free space there" in done.stderr
    assert "Traceback" not in done.stderr
    assert tree_bytes(tmp_path / "store") == {}
    assert build_store([source], tmp_path / "store", key=KEY, progress=False).added == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_only_what_a_disk_says_is_the_disk_s(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "PLANTED")

    monkeypatch.setattr("medssl_monai.store.series_files.pq.write_table", refuse)
    if number == errno.ENOSPC:
        with pytest.raises(InputError, match=r"store: cannot be written \(No space left on device\)") as caught:
            build_store([source], tmp_path / "store", key=KEY, progress=False)
        assert "PLANTED" not in str(caught.value)
    else:
        with pytest.raises(PermissionError):
            build_store([source], tmp_path / "store", key=KEY, progress=False)
