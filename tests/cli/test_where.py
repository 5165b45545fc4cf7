"""Following back: pseudonyms to paths by the names file, and paths and UIDs to pseudonyms by the key."""

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.where import whereabouts
from medssl_monai.store.names_file import Name, add_names, read_names
from tests.ingest.dicom_fixtures import KEY, phantom, uid, write_series


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder of CT, one in a zip, one of scouts, and a text file."""
    source = tmp_path / "Doe^Jane" / "archive"
    write_series(source / "chest", phantom(seed=1), series="A")
    packed = write_series(tmp_path / "packed", phantom(seed=2), series="B")
    with zipfile.ZipFile(source / "old.zip", "w") as file:
        for path in packed:
            file.write(path, f"head/{path.name}")
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    write_series(source / "scouts", phantom(slices=2, seed=3), series="C", ImageType=scout)
    (source / "notes.txt").write_text("nothing")
    return source


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    (tmp_path / "key").write_bytes(KEY)
    return tmp_path / "key"


@pytest.fixture
def ingested(medssl: Any, archive: Path, key_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The store and the names file."""
    store, names = tmp_path / "store", tmp_path / "private" / "names.csv"
    code, out, _ = medssl("ingest", archive, "--out", store, "--key", key_file, "--names", names)
    assert code == 0
    assert "identify patients" in out
    return store, names


def test_every_verdict_leads_to_its_path(ingested: tuple[Path, Path], archive: Path) -> None:
    store, names = SliceStore(ingested[0]), ingested[1]
    assert names.stat().st_mode & 0o777 == 0o600
    rows = {row.series_id or row.source_id: row for row in read_names(names)}
    assert rows.keys() == {verdict.subject for verdict in store.verdicts}
    assert {(row.path, row.series_uid) for row in rows.values()} == {
        (str(archive / "chest"), uid("A")),
        (str(archive / "old.zip" / "head"), uid("B")),
        (str(archive / "scouts"), uid("C")),
        (str(archive / "notes.txt"), ""),
    }
    for file in store.path.rglob("*"):
        assert file.is_dir() or b"Doe" not in file.read_bytes()


def test_there_and_back(medssl: Any, ingested: tuple[Path, Path], archive: Path, key_file: Path) -> None:
    store, names = ingested
    for name in read_names(names):
        for asked in filter(None, (name.series_id, name.source_id)):
            code, out, _ = medssl("where", store, asked, "--names", names, "--json")
            assert code == 0
            (found,) = json.loads(out)
            assert (found["path"], found["series_uid"]) == (name.path, name.series_uid)
        for asked in filter(None, (name.path, name.series_uid)):
            code, out, _ = medssl("where", store, asked, "--key", key_file)
            assert code == 0
            assert out.split("\t")[0] == (name.series_id or name.source_id)
    scouts = medssl("where", store, archive / "scouts", "--key", key_file)[1]
    assert "rejected LOCALIZER" in scouts
    one_file = medssl("where", store, min((archive / "chest").iterdir()), "--key", key_file)[1]
    assert one_file.split("\t")[0] == medssl("where", store, uid("A"), "--key", key_file)[1].split("\t")[0]


def test_a_patient_leads_to_all_series(ingested: tuple[Path, Path]) -> None:
    store, names = SliceStore(ingested[0]), read_names(ingested[1])
    (patient,) = {row["patient"] for row in store.select()}
    assert {one.id for one in whereabouts(store, patient, names)} == set(store.series_ids)


def test_what_is_not_known_is_said_and_the_rest_is_given(
    medssl: Any, ingested: tuple[Path, Path], key_file: Path, tmp_path: Path
) -> None:
    store, names = ingested
    series = SliceStore(store).series_ids[0]
    code, out, err = medssl("where", store, series, "s" + "a" * 16, "--names", names)
    assert code == 1
    assert out.startswith(series)
    assert "has no verdict on it" in err
    assert "--names FILE" in medssl("where", store, series)[2]
    assert "neither a path" in medssl("where", store, tmp_path / "nowhere", "--key", key_file)[2]
    key_file.write_bytes(KEY[::-1])
    assert "another key" in medssl("where", store, tmp_path, "--key", key_file)[2]
    add_names(tmp_path / "other.csv", [])
    assert "is not in the names file" in medssl("where", store, series, "--names", tmp_path / "other.csv")[2]


def test_a_moved_series_has_its_new_path(
    medssl: Any, ingested: tuple[Path, Path], archive: Path, key_file: Path, tmp_path: Path
) -> None:
    store, names = ingested
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file() and path.name != "report.html"}
    (archive / "chest").rename(tmp_path / "thorax")
    code, *_ = medssl("ingest", tmp_path / "thorax", "--out", store, "--key", key_file, "--names", names)
    assert code == 0
    assert {path: path.read_bytes() for path in before} == before
    places = {row.series_uid: row.path for row in read_names(names)}
    assert places[uid("A")] == str(tmp_path / "thorax")
    assert places[uid("B")] == str(archive / "old.zip" / "head")


def test_names_of_any_bytes(tmp_path: Path) -> None:
    strange = os.fsdecode(b'/in/caf\xe9, "new\nline"')
    rows = [Name("", "f2", strange), Name("s1", "f1", "/in", "1.2")]
    add_names(tmp_path / "names.csv", rows)
    assert read_names(tmp_path / "names.csv") == rows
    assert add_names(tmp_path / "names.csv", [Name("s1", "f3", "/there", "1.2")]) == [
        rows[0],
        Name("s1", "f3", "/there", "1.2"),
    ]


def test_another_file_is_not_overwritten(medssl: Any, archive: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("source,label\na,b\n")
    code, _, err = medssl("ingest", archive, "--out", tmp_path / "store", "--names", labels)
    assert code == 1
    assert "names file" in err
    assert labels.read_text() == "source,label\na,b\n"
    assert not (tmp_path / "store").exists()


def test_nothing_is_collected_unless_asked_for(archive: Path, tmp_path: Path) -> None:
    assert build_store([archive], tmp_path / "store", key=KEY, progress=False).names == ()
