"""What a training is on is said before it starts: counts, what is left out, leaks."""

import json
import logging
from pathlib import Path

import pytest

from medssl_monai.classify import overview
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.listed_data import ListedData, leave_out_missing
from medssl_monai.classify.overview import table_of, write_overview
from medssl_monai.classify.pictures.published import image_task
from medssl_monai.ingest import SliceStore
from tests.classify.test_picture_leaks import save, scan


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two pictures a class and split; a patient and a picture of training are in test too."""
    for number, place in enumerate(f"{split}/{label}" for split in ("train", "val", "test") for label in "ab"):
        for i in range(2):
            save(tmp_path / "in", f"{place}/{place[:2]}{i}/{i}.png", scan(100 * number + i))
    save(tmp_path / "in", "test/b/ROE/copy.jpg", scan(0).convert("RGB"), quality=95)
    save(tmp_path / "in", "test/a/tr1/2.png", scan(999))
    (tmp_path / "in" / "train" / "a" / "notes.txt").touch()
    return tmp_path / "in"


def test_pictures(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = image_task("folders", pictures)
    with caplog.at_level(logging.INFO):
        content = write_overview(data, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "data.json").read_text()) == json.loads(json.dumps(content))
    assert content["rows"][-1] == {
        "split": "test",
        "class": "b",
        "slices": 3,
        "sources": 3,
        "patients": 3,
        "formats": {"JPEG RGB": 1, "PNG L": 2},
    }
    assert content["left_out"] == {".txt: no picture (PNG, JPEG, BMP, TIFF)": 1}
    for words in (
        "test        b      3       3        3         JPEG RGB 1, PNG L 2",
        "left out: 1 file, .txt",
        "leak: alike: train/a/tr0/0.png (a, train) and test/b/ROE/copy.jpg (b, test)",
        "leak: train and test share 1 patients",
    ):
        assert words in caplog.text
    assert content["audit"]["leaks"]


@pytest.mark.parametrize(("wanted", "words"), [(False, "audit=false"), (True, "14 pictures would take more")])
def test_an_audit_that_is_not_run_is_said(
    wanted: bool,
    words: str,
    pictures: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(overview, "MOST_FILES", 12)
    with caplog.at_level(logging.INFO):
        content = write_overview(image_task("folders", pictures), tmp_path, audit=wanted)
    assert list(content["audit"]) == ["not_run"]
    assert words in caplog.text
    assert "run `medssl audit DATA`" in caplog.text


def test_a_split_that_is_elsewhere_is_said_once(
    tmp_path: Path, phantom_store: SliceStore, caplog: pytest.LogCaptureFixture
) -> None:
    series = phantom_store.series_ids[0]
    text = f"source,label,patient,split\nelsewhere,a,x,test\n{series},a,y,train\n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.INFO):
        write_overview(LabelledData(tmp_path / "labels.csv", phantom_store.path, ["a", "b"]), tmp_path)
    assert sum("test: not counted" in message for message in caplog.messages) == 1


def test_missing_sources_of_an_evaluation_are_said_once(
    tmp_path: Path, phantom_store: SliceStore, caplog: pytest.LogCaptureFixture
) -> None:
    series = phantom_store.series_ids[0]
    text = f"source,slice,label,patient,split\nelsewhere,0,a,x,test\n{series},0,a,y,test\n"
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    data = LabelledData(tmp_path / "labels.csv", phantom_store.path, ["a", "b"])
    leave_out_missing(data)
    write_overview(data, tmp_path)
    assert len(data.rows("test")) == len(data.labels_of("test")) == 1
    assert sum("1 of 2 test rows name sources" in message for message in caplog.messages) == 1
    leave_out_missing(ListedData(["a"]))  # other data have no table


def test_slices_of_a_store(tmp_path: Path, phantom_labels: Path, phantom_store: SliceStore) -> None:
    data = LabelledData(phantom_labels, phantom_store.path)
    content = write_overview(data, tmp_path)
    rejected = sum(verdict.files for verdict in phantom_store.verdicts if verdict.reason)
    assert content["left_out"] == {"rejected at ingestion: NOT_AN_IMAGE_FILE": rejected}
    for split in ("train", "test"):
        rows = [row for row in content["rows"] if row["split"] == split]
        assert sum(row["slices"] for row in rows) == len(data.rows(split))
        assert {row["class"] for row in rows} <= set(data.classes)
        assert all(set(row["formats"]) == {"CT"} and row["patients"] for row in rows)
    assert {one["name"] for one in content["audit"]["sets"]} == {row["split"] for row in content["rows"]}
    assert table_of(content["rows"]).splitlines()[0].split() == [
        *("split", "class", "slices", "sources", "patients", "formats")
    ]


def test_a_class_that_a_split_lacks_is_told(
    tmp_path: Path, phantom_labels: Path, phantom_store: SliceStore, caplog: pytest.LogCaptureFixture
) -> None:
    lines = phantom_labels.read_text(encoding="utf-8").splitlines()
    path = phantom_labels.with_name("fewer.csv")
    path.write_text("\n".join(line for line in lines if not (",head," in line and line.endswith("test"))))
    content = write_overview(LabelledData(path, phantom_store.path), tmp_path)
    path.unlink()
    assert "no slice of test shows: head" in content["statements"]
    assert "no slice of test shows: head" in caplog.text
