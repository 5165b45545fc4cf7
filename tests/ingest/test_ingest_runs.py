"""Runs as wholes: again, interrupted, in several processes; and that nobody can be recognised in what they leave."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest

from medssl_monai.errors import InputError, LabelError, NoImagesError, StoreError
from medssl_monai.ingest import Outcome, Reason, SliceStore, build_store
from medssl_monai.ingest.lookup import find_series
from medssl_monai.store.pseudonyms import default_key_path, load_key, pseudonym
from medssl_monai.store.writer import StoreWriter
from tests.ingest.dicom_fixtures import KEY, phantom, tree_bytes, uid, write, write_series

SERIES = ("one", "two", "three", "four")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "Plantedname_Erika"
    for seed, series in enumerate(SERIES):
        write_series(folder / series, phantom(4, seed=seed), series=series)
    (folder / "PLANTED-ID-4711.txt").write_text("Plantedname^Erika")
    return folder


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> Path:
    build_store([source], tmp_path / "whole", key=KEY, progress=False)
    return tmp_path / "whole"


def test_second_run_touches_nothing(source: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    summary = build_store([source], whole, key=KEY, progress=False)
    assert (summary.added, summary.skipped, summary.series, summary.slices) == (0, 4, 4, 16)
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_two_workers_give_the_same_bytes(source: Path, whole: Path, tmp_path: Path) -> None:
    build_store([source], tmp_path / "two", key=KEY, workers=2, progress=False)
    assert tree_bytes(tmp_path / "two") == tree_bytes(whole)


def test_sources_one_after_another(source: Path, whole: Path, tmp_path: Path) -> None:
    for name in (*reversed(SERIES), "PLANTED-ID-4711.txt"):
        if (source / name).is_dir():
            build_store([source / name], tmp_path / "parts", key=KEY, progress=False)
    build_store([source, source / "one"], tmp_path / "parts", key=KEY, progress=False)
    assert tree_bytes(tmp_path / "parts") == tree_bytes(whole)


@pytest.mark.parametrize("split", [False, True])
def test_a_file_that_was_mended_is_read(tmp_path: Path, split: bool) -> None:
    """A truncated image is left out, again and again, until its file is another; split series alike."""
    hu = phantom(6)
    paths = write_series(tmp_path / "in", hu)
    if split:
        others = write_series(tmp_path / "in" / "b", phantom(6, seed=1), ConvolutionKernel="B70f", SOPInstanceUID=None)
        assert len(others) == 6
    whole = paths[2].read_bytes()
    build_store([tmp_path / "in"], tmp_path / "whole", key=KEY, progress=False)
    (tmp_path / "in" / "b").mkdir(exist_ok=True)
    (tmp_path / "in" / "b").rename(tmp_path / "b")
    paths[2].write_bytes(whole[:-200])
    first = build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    assert (first.slices, first.added) == (5, 1)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")}
    again = build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    assert (again.added, again.verdicts) == (0, first.verdicts)
    without = build_store([*paths[:2], *paths[3:]], tmp_path / "store", key=KEY, progress=False)
    assert (without.added, sum(verdict.files for verdict in without.verdicts)) == (0, 5)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*")} == before
    (tmp_path / "b").rename(tmp_path / "in" / "b")
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    paths[2].write_bytes(whole)
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    store = SliceStore(tmp_path / "store")
    assert store.fingerprint == SliceStore(tmp_path / "whole").fingerprint
    assert max(len(store.read_series(one)) for one in store.series_ids) == 6


def test_every_image_that_is_gone_is_counted(tmp_path: Path) -> None:
    """Whether it is alone or there are damaged copies of it; in one run, in two, and again."""
    paths = write_series(tmp_path / "in", phantom(6))
    for path in paths[2:4]:
        path.write_bytes(path.read_bytes()[:-200])
    shutil.copy(paths[2], tmp_path / "in" / "copy.dcm")
    shutil.copy(paths[0], tmp_path / "in" / "damaged_copy.dcm")
    with (tmp_path / "in" / "damaged_copy.dcm").open("r+b") as file:
        file.truncate(paths[0].stat().st_size - 200)
    first = build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    (series,) = (verdict for verdict in first.verdicts if verdict.kind == "series")
    assert (series.outcome, series.files, series.slices) == (Outcome.REPAIRED, 4, 4)
    assert series.repairs == ("left out 2 images that cannot be decoded",)
    assert [verdict.reason for verdict in first.verdicts if verdict.kind == "file"] == [Reason.UNDECODABLE] * 4
    again = build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    assert (again.added, again.verdicts) == (0, first.verdicts)
    build_store([paths[0], paths[1], *paths[4:]], tmp_path / "parts", key=KEY, progress=False)
    build_store([tmp_path / "in"], tmp_path / "parts", key=KEY, progress=False)
    assert tree_bytes(tmp_path / "parts") == tree_bytes(tmp_path / "store")


def test_images_that_share_one_uid_are_told_apart(tmp_path: Path) -> None:
    """An anonymiser gave all images one SOPInstanceUID: those that come later are stored nonetheless, once."""
    hu = phantom(6)
    paths = write_series(tmp_path / "all", hu, SOPInstanceUID=uid("one for all"))
    for count, added in ((1, 1), (3, 1), (6, 1), (6, 0)):
        summary = build_store(paths[:count], tmp_path / "store", key=KEY, progress=False)
        assert (summary.added, summary.slices) == (added, count)
    store = SliceStore(tmp_path / "store")
    assert np.array_equal(store.read_series(store.series_ids[0]), hu)
    assert find_series(store, paths[4], KEY) == store.series_ids[0]


def test_later_runs_do_not_deny_what_is_stored(source: Path, whole: Path, tmp_path: Path) -> None:
    """A run over a part of a series, one for another modality, and one into a folder that was there, but empty."""
    before = tree_bytes(whole)
    part = build_store([source / "one" / "001.dcm"], whole, key=KEY, progress=False)
    assert (part.files, part.added, part.series, part.slices) == (1, 0, 1, 4)
    assert tree_bytes(whole) == before
    mr = phantom(1)
    write_series(tmp_path / "mr", mr, series="mr", SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR")
    build_store([source, tmp_path / "mr"], whole, key=KEY, modality="MR", progress=False)
    store = SliceStore(whole)
    assert len(store.series_ids) == 5
    assert sum(verdict.slices for verdict in store.verdicts) == len(store)
    assert {verdict.reason for verdict in store.verdicts if verdict.kind == "series"} == {None}
    (tmp_path / "empty").mkdir()
    paths = write_series(tmp_path / "broken", mr, series="broken")
    paths[0].write_bytes(paths[0].read_bytes()[:-50])
    with pytest.raises(NoImagesError):
        build_store([tmp_path / "broken"], tmp_path / "empty", key=KEY, progress=False)
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_interrupted_run_is_completed(
    source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    out, calls = tmp_path / "interrupted", []
    original = StoreWriter.write

    def write(self: StoreWriter, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise interruption
        return original(self, *arguments, **options)

    monkeypatch.setattr(StoreWriter, "write", write)
    with pytest.raises(interruption):
        build_store([source], out, key=KEY, progress=False)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="did not finish"):
        SliceStore(out)
    # What killed processes leave: drafts, and an array without its part.
    (out / ".draft-1-abcd").mkdir()
    (out / ".draft-1-abcd" / "array.b2nd").write_bytes(b"half")
    (out / ".draft-report.html").write_bytes(b"half")
    (out / "series" / "sorphan.b2nd").write_bytes(b"whole")
    summary = build_store([source], out, key=KEY, progress=False)
    assert (summary.added, summary.skipped) == (2, 2)
    assert tree_bytes(out) == tree_bytes(whole)


def test_killed_run_is_completed(source: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    # Stops for good after the second series, as far as the outside can tell in the middle of the third.
    program = (
        "import time; from pathlib import Path\n"
        "from medssl_monai.ingest import build_store; from medssl_monai.store import series_files\n"
        "calls = []\n"
        "def row(*arguments, real=series_files._row):\n"
        "    calls.append(1)\n"
        "    if len(calls) > 9: time.sleep(60)\n"
        "    return real(*arguments)\n"
        "series_files._row = row\n"
        f"build_store([Path({str(source)!r})], Path({str(out)!r}), key={KEY!r}, progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 30
    while len(list((out / "series").glob("*.parquet"))) < 2 or not list(out.glob(".draft-*/array.b2nd")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert list(out.glob(".draft-*"))
    assert build_store([source], out, key=KEY, progress=False).added == 2
    assert tree_bytes(out) == tree_bytes(whole)


def test_killed_at_random_points(tmp_path: Path) -> None:
    """`kill -9` of all processes of a run, again and again wherever it happens to be: the next run goes on."""
    rng, source, out = random.Random(4), tmp_path / "in", tmp_path / "killed"
    for seed in range(30):
        write_series(source / str(seed), phantom(3, seed=seed), series=str(seed))
    with zipfile.ZipFile(source / "study.zip", "w") as archive:
        for path in write_series(tmp_path / "z", phantom(5, seed=99), series="zip"):
            archive.write(path, path.name)
    build_store([source], tmp_path / "whole", key=KEY, progress=False, report=True)
    program = (
        "from pathlib import Path; from medssl_monai.ingest import build_store\n"
        "if __name__ == '__main__':\n"
        f"    build_store([Path({str(source)!r})], Path({str(out)!r}), key={KEY!r}, "
        "progress=False, workers=%d, report=True)\n"
    )
    (tmp_path / "program.py").write_text(program % 1)
    stored = []
    for attempt in range(5):
        (tmp_path / "program.py").write_text(program % (1 + attempt % 2))
        process = subprocess.Popen([sys.executable, str(tmp_path / "program.py")], start_new_session=True)
        deadline = time.monotonic() + 30
        while not out.exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(rng.uniform(0.05, 0.5) + 0.6 * (attempt > 0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        stored.append(len(list((out / "series").glob("*.parquet"))))
    assert stored == sorted(stored)
    assert stored[0] < 31
    build_store([source], out, key=KEY, progress=False, report=True)
    assert tree_bytes(out) == tree_bytes(tmp_path / "whole")


def days_since_epochs(day: date) -> set[int]:
    """The numbers that stand for a date in common countings: Python's, UNIX's, spreadsheets', Julian, as digits."""
    number = day.toordinal()
    return {number, number - 719163, number - 693594, number + 1721425, number - 678576, int(day.strftime("%Y%m%d"))}


def test_nobody_can_be_recognised(source: Path, whole: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Planted names, identifiers, UIDs and paths are nowhere: neither in files, compressed or not, nor in logs."""
    planted = [
        *(
            "Plantedname",
            "Erika",
            "PLANTED",
            "4711",
            "19640812",
            "20191229",
            "2019-12-29",
            "Hospital",
            str(source),
            source.name,
        ),
        *(uid(series) for series in SERIES),
        *(uid(series, i) for series in SERIES for i in range(4)),
        uid("study"),
        uid("frame"),
    ]
    build_store([source], whole, key=KEY, progress=True)
    store = SliceStore(whole)
    printed = "".join(capfd.readouterr())
    texts = [repr(store.select()), repr(store.verdicts), repr([store.note(s) for s in store.series_ids]), printed]
    contents = b"\n".join([*(name.encode() for name in tree_bytes(whole)), *tree_bytes(whole).values()])
    for word in planted:
        assert word.encode() not in contents, word
        assert all(word not in text for text in texts), word
    dates = {number for day in ("2019-12-29", "1964-08-12") for number in days_since_epochs(date.fromisoformat(day))}
    for table in (store.index, *(pq.read_table(part) for part in (whole / "series").glob("*.parquet"))):
        assert table.column("study_day").null_count == 0
        numbers = {value for column in table.columns for value in column.to_pylist() if isinstance(value, (int, float))}
        assert not numbers & dates
    assert KEY not in contents


def test_pseudonyms_depend_on_the_key(source: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="another key"):
        build_store([source], whole, key=b"another key of 16 bytes", progress=False)
    build_store([source], tmp_path / "other", key=b"another key of 16 bytes", progress=False)
    mine, other = SliceStore(whole), SliceStore(tmp_path / "other")
    for column in ("patient", "series_id", "source_id"):
        assert not set(mine.index.column(column).to_pylist()) & set(other.index.column(column).to_pylist())


def test_nothing_to_ingest(source: Path, whole: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    before = tree_bytes(whole)
    for out in (whole, tmp_path / "new"):
        with pytest.raises(NoImagesError, match="among 0 files"):
            build_store([tmp_path / "empty"], out, key=KEY, progress=False)
        with pytest.raises(NoImagesError, match=r"no MR images .* 17 files .*16 OTHER_MODALITY"):
            build_store([source], out, key=KEY, modality="MR", progress=False)
    assert tree_bytes(whole) == before
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="does not exist"):
        build_store([tmp_path / "missing"], tmp_path / "new", key=KEY, progress=False)


def test_store_inside_its_source(source: Path) -> None:
    first = build_store([source], source / "store", key=KEY, progress=False)
    second = build_store([source], source / "store", key=KEY, progress=False)
    assert first.files == second.files == 17


def test_summary_reads_well(source: Path, tmp_path: Path) -> None:
    summary = build_store([source], tmp_path / "out", key=KEY, progress=False)
    assert str(summary) == (
        f"17 files: 4 series with 16 slices in {tmp_path / 'out'} (4 added, 0 there already), 1 patient; "
        "16 files accepted, 0 repaired, 1 rejected (1 NOT_AN_IMAGE_FILE)"
    )


def test_resolve(source: Path, whole: Path, tmp_path: Path) -> None:
    store = SliceStore(whole)
    two = pseudonym(KEY, "series", uid("two"))
    assert find_series(store, two) == two
    assert find_series(store, uid("two"), KEY) == two
    assert find_series(store, source / "two", KEY) == two
    assert find_series(store, str(source / "two" / "003.dcm"), KEY) == two
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "x").write_bytes((source / "two" / "003.dcm").read_bytes())
    assert find_series(store, tmp_path / "moved", KEY) == two
    with pytest.raises(LabelError, match="stands for 4 series"):
        find_series(store, source, KEY)
    with pytest.raises(LabelError, match="is not in store"):
        find_series(store, "1.2.3", KEY)
    with pytest.raises(LabelError, match="is not in store"):
        find_series(store, source / "PLANTED-ID-4711.txt", KEY)
    with pytest.raises(LabelError, match="neither a path that exists"):
        find_series(store, "no/such/path", KEY)
    with pytest.raises(StoreError, match="another key"):
        find_series(store, uid("two"), b"another key of 16 bytes")


def test_resolve_parts_of_a_series(tmp_path: Path) -> None:
    for name, spacing in (("wide", (0.7, 0.9)), ("narrow", (0.5, 0.5))):
        for path in write_series(tmp_path / name, phantom(seed=len(name)), spacing=spacing):
            image = pydicom.dcmread(path)
            image.SOPInstanceUID = uid(name, path.name)
            write(image, path)
    build_store([tmp_path / "wide", tmp_path / "narrow"], tmp_path / "store", key=KEY, progress=False)
    store = SliceStore(tmp_path / "store")
    with pytest.raises(LabelError, match="stands for 2 series"):
        find_series(store, uid("one"), KEY)
    found = find_series(store, tmp_path / "narrow", KEY)
    assert store.select([["series_id", "==", found]])[0]["spacing_row_mm"] == 0.5


def test_key_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("MEDSSL_KEY", raising=False)
    own = load_key()
    assert default_key_path() == tmp_path / "config" / "medssl-monai" / "key"
    assert default_key_path().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in default_key_path().parent.iterdir()] == ["key"]
    assert load_key() == own
    assert len(own) == 64
    monkeypatch.setenv("MEDSSL_KEY", "0123456789abcdef")
    assert load_key() == b"0123456789abcdef"
    (tmp_path / "file").write_text("a key in a file, long\n")
    assert load_key(tmp_path / "file") == b"a key in a file, long"
    (tmp_path / "file").write_text("short")
    with pytest.raises(InputError, match="at least 16 bytes, found 5"):
        load_key(tmp_path / "file")
    with pytest.raises(InputError, match="cannot be read"):
        load_key(tmp_path / "missing")


def test_pseudonym_is_the_hmac_of_the_standard() -> None:
    """RFC 4231, test case 2 extended by our prefix: computed with hashlib alone."""
    import base64
    import hashlib

    key, message = b"Jefe", b"patient\0what do ya want for nothing?"
    block = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in block) + message).digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in block) + inner).digest()
    expected = "p" + base64.b32encode(outer[:10]).decode().lower()
    assert pseudonym(key, "patient", "what do ya want for nothing?") == expected


def test_importing_needs_no_torch() -> None:
    program = "import sys; import medssl_monai.ingest; print({'torch', 'monai', 'SimpleITK'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_values_survive_workers(source: Path, tmp_path: Path) -> None:
    build_store([source], tmp_path / "out", key=KEY, workers=2, progress=False)
    store = SliceStore(tmp_path / "out")
    for seed, series in enumerate(SERIES):
        assert np.array_equal(store.read_series(find_series(store, uid(series), KEY)), phantom(4, seed=seed))
