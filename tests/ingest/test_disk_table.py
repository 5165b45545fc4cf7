"""What a run remembers on disk: invisible, gone with the process, and clear about a disk that refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medssl_monai.ingest.sources.paths import PathList, SourceFile, SourceFiles

SPILLS = """
import os, sys
from pathlib import Path
from medssl_monai.ingest.sources.paths import PathList
paths = PathList(f"/archive/Plantedname/{number:08d}.dcm" for number in range(20_000))
opened = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
kept = [one for one in opened if one.is_relative_to(sys.argv[1])]
assert kept and all(str(one).endswith(" (deleted)") for one in kept), opened
assert os.listdir(sys.argv[1]) == []
assert len(list(paths)) == 20_000
"""


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are told by Linux")
def test_nothing_can_be_seen_of_it(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "SQLITE_TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", SPILLS, str(tmp_path)], check=True, env=environment)


def test_paths_come_sorted_and_once(tmp_path: Path) -> None:
    names = ["b", "a", "c", "\udcff"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path / name))).touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    paths = PathList(str(tmp_path / name) for name in [*names, "link", "a"])
    assert [path.name for path in paths] == ["a", "b", "c", "\udcff"]
    assert len(paths) == 4
    assert tmp_path / "b" in paths
    assert tmp_path / "link" not in paths


def test_files_keep_their_order() -> None:
    files = SourceFiles()
    given = [SourceFile(Path(path), Path(content)) for path, content in [("z", "z"), ("a.zip/x", "/t/0"), ("b", "b")]]
    for file in given:
        files.add(file)
    assert list(files) == list(files) == given
    assert given[1] in files


PROGRAM = """
import resource
from medssl_monai.errors import InputError
from medssl_monai.ingest.sources.paths import PathList
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    PathList(f"/archive/{number:08d}.dcm" for number in range(50_000))
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits are POSIX's")
def test_a_full_disk_is_named() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    assert "TMPDIR" in run.stdout
