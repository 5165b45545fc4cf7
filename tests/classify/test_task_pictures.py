"""Head CT folds, patients by a table, pictures left out of training, facts of files."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medssl_monai.classify.finetune import finetune
from medssl_monai.classify.overview import contradicting, write_overview
from medssl_monai.classify.pictures.file_facts import FORMATS, MODES, facts_forest, file_facts
from medssl_monai.classify.pictures.folders import folder_classes
from medssl_monai.classify.pictures.published import TaskName, head_ct, image_task
from medssl_monai.errors import ConfigError, InputError, LabelError


def draw(path: Path, seed: int, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).convert(mode).save(path, quality=95)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(30):
        draw(tmp_path / "head" / f"{number:03d}.png", number)
    draw(tmp_path / "head" / "007.png", 3)  # 3 again
    lines = ["id, hemorrhage", *(f"{number}, {int(number < 15)}" for number in range(30))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_folds_hold_everything_once_and_look_alikes_together(root: Path) -> None:
    folds = [head_ct(root, fold) for fold in range(5)]
    tested = sorted(place for data in folds for place in data.splits["test"])
    assert tested == list(range(30))
    for data in folds:
        parts = {split: set(places) for split, places in data.splits.items()}
        assert set.union(*parts.values()) == set(range(30))
        assert sum(map(len, parts.values())) == 30
        assert any({3, 7} <= part for part in parts.values()), "look-alikes are on one side"
        assert {data.label(place) for place in data.splits["test"]} == {0, 1}
    assert len(set(folds[0].patients)) == 29
    assert head_ct(root, 5).splits["test"] != folds[0].splits["test"], "another draw"
    assert folds[0].classes[folds[0].label(0)] == "hemorrhage"


@pytest.mark.parametrize("name", ["covid_ct", "head_ct", "folders", "table", "organ_s_mnist"])
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, name: TaskName) -> None:
    with pytest.raises(LabelError, match=f"{name}: .*nowhere does not exist; give the folder or file"):
        image_task(name, tmp_path / "nowhere")


def test_a_fold_that_cannot_be_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError, match="fold: must be a whole number from 0, found -1"):
        head_ct(root, -1)
    (root / "labels.csv").write_text("id,hemorrhage\n0,1\n20,0\n")
    with pytest.raises(ConfigError, match="needs 5 pictures of each class, found 1"):
        head_ct(root)


@pytest.fixture
def covid_root(tmp_path: Path) -> Path:
    for label, (name, count) in enumerate((("COVID", 4), ("NonCOVID", 4))):
        for split in ("train", "val", "test"):
            files = [f"{split}{i}{name}.{'jpg' if label else 'png'}" for i in range(count)]
            for i, file in enumerate(files):
                draw(tmp_path / f"CT_{name}" / file, seed=100 * label + i + 10 * len(split))
            table = tmp_path / "Data-split" / name / f"{split}CT_{name}.txt"
            table.parent.mkdir(parents=True, exist_ok=True)
            table.write_text("\n".join(files))
    return tmp_path


def test_patients_come_from_a_table_as_numbers(covid_root: Path) -> None:
    table = covid_root / "patients.csv"
    table.write_text("path,label,patient_id\nCT_COVID/train0COVID.png,1,Doe\nCT_COVID/train1COVID.png,1,Doe\n")
    data = image_task("covid_ct", covid_root, patients=table)
    assert data.patients[:3] == ["patient-0001", "patient-0001", ""]
    assert data.statements == ("patient unknown of 22 of 24 pictures",)
    table.write_text("path,patient\nnone.png,x\n")
    with pytest.raises(LabelError, match=r"patients\.csv: names none of the pictures of covid_ct"):
        image_task("covid_ct", covid_root, patients=table)
    table.write_text("name,patient\nnone.png,x\n")
    with pytest.raises(InputError, match="needs a column source or path"):
        image_task("covid_ct", covid_root, patients=table)
    with pytest.raises(ConfigError, match="a table of them is for covid_ct"):
        image_task("folders", covid_root, patients=table)


def test_contradicting_pictures_are_found_and_left_out(covid_root: Path, tmp_path: Path) -> None:
    data = image_task("covid_ct", covid_root)
    assert contradicting(write_overview(data, tmp_path / "out")) == []
    assert contradicting(write_overview(data, tmp_path / "out", audit=False)) is None
    copied = (covid_root / "CT_COVID" / "test2COVID.png").read_bytes()
    (covid_root / "CT_NonCOVID" / "train1NonCOVID.jpg").write_bytes(copied)
    names = contradicting(write_overview(image_task("covid_ct", covid_root), tmp_path / "out"))
    assert names == ["CT_COVID/test2COVID.png", "CT_NonCOVID/train1NonCOVID.jpg"]
    data = image_task("covid_ct", covid_root, leave_out=names or [])
    assert {split: len(places) for split, places in data.splits.items()} == {"train": 7, "validation": 8, "test": 8}
    with pytest.raises(LabelError, match=re.escape("leave_out: covid_ct has no picture 'x.png'")):
        image_task("covid_ct", covid_root, leave_out=["x.png"])


def test_facts_of_files_tell_format_mode_and_size_but_not_anatomy(tmp_path: Path) -> None:
    for number in range(12):
        draw(tmp_path / "a" / f"{number}.png", number, "RGBA")
        draw(tmp_path / "b" / f"{number}.jpg", number)
    data = folder_classes(tmp_path)
    facts = file_facts(data)
    assert facts.shape == (24, 3 + 2 + len(FORMATS) + len(MODES) + 1 + 16)
    assert facts[0, :3].tolist() == [96, 80, 1.2]
    assert facts[:, -16:].sum(axis=1) == pytest.approx(np.ones(24))
    formats = facts[:, 5 : 5 + len(FORMATS)]
    assert formats.sum(axis=1).tolist() == [1] * 24
    train, test = [*range(6), *range(12, 18)], [*range(6, 12), *range(18, 24)]
    found = facts_forest(facts[train], data.labels[train], facts[test], 2)
    assert found.argmax(axis=1).tolist() == data.labels[test].tolist()
    grey = facts[:, -16:]
    assert grey[0] == pytest.approx(grey[12], abs=0.2), "the same picture in both files"


def test_a_setting_of_other_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("source,label\n")
    with pytest.raises(ConfigError, match="fold: these data have no such setting, found 2"):
        finetune(tmp_path / "labels.csv", tmp_path / "run", fold=2)
    with pytest.raises(ConfigError, match="fold: these data have no such setting"):
        finetune(tmp_path, tmp_path / "run", config="finetune_covid_ct", fold=2)
