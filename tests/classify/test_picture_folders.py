"""Folders of pictures by class: splits, patients, classes, spellings."""

import shutil
from pathlib import Path

import pytest

from medssl_monai.classify.pictures.folders import folder_classes
from medssl_monai.classify.pictures.published import image_task
from medssl_monai.errors import LabelError
from medssl_monai.labels.subsets import (
    reference_split,
)
from tests.classify.made_pictures import organ_file, parted, picture


@pytest.mark.parametrize("parts", ["", "train"])
def test_folders_keep_patients_apart(tmp_path: Path, parts: str) -> None:
    for label in ("bleeding", "none"):
        for person in range(10):
            for i in range(3):
                picture(tmp_path / parts / label / f"DOE^{label}{person}" / f"{i}.png")
    if parts:
        picture(tmp_path / "test" / "none" / "ROE" / "0.png")
        picture(tmp_path / "test" / "bleeding" / "ROE" / "0.png")
    data = folder_classes(tmp_path)
    owners = {split: {data.patients[i] for i in found} for split, found in data.splits.items()}
    assert not owners["train"] & owners["validation"]
    assert not owners["train"] & owners["test"]
    assert all(set(data.labels_of(split)) == {0, 1} for split in ("train", "validation", "test"))
    assert not any("DOE" in name for name in data.patients)


def test_folders_as_the_reference_split_them(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "train" / ("a" if i < 9 else "b") / f"{i:02d}.png")
        picture(tmp_path / "test" / ("a" if i < 9 else "b") / f"{i:02d}.png")
    data = folder_classes(tmp_path, as_reference=True)
    assert (list(data.splits["train"]), list(data.splits["validation"])) == reference_split(20)
    with pytest.raises(LabelError, match="two or more"):
        folder_classes(tmp_path / "train" / "a")


def test_folders_of_splits_have_the_same_classes(tmp_path: Path) -> None:
    long = "adenocarcinoma_left.lower.lobe_T2_N0_M0_Ib"
    root = parted(tmp_path / "a", train=f"{long} normal", valid=f"{long} normal", test="adenocarcinoma normal")
    with pytest.raises(LabelError, match="the class folders of 'test' differ from those of 'train'") as caught:
        folder_classes(root)
    for words in (
        f"it lacks '{long}' and also has 'adenocarcinoma' (did you mean '{long}'?)",
        f"'train' has {long}, normal; 'test' has adenocarcinoma, normal; rename the folders",
    ):
        assert words in str(caught.value)
    with pytest.raises(LabelError, match=r"'validation' differ .* it lacks 'b'"):
        folder_classes(parted(tmp_path / "b", train="a b", val="a", test="a b"))
    (parted(tmp_path / "c", train="a b", test="a") / "test" / "b").mkdir()
    with pytest.raises(LabelError, match=r"the class 'b' has no picture .* in 'test'"):
        folder_classes(tmp_path / "c")


@pytest.mark.parametrize("names", [("Train", "VAL", "Test"), ("training", "valid", "testing")])
def test_folders_of_splits_by_any_spelling(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = folder_classes(parted(tmp_path, **dict.fromkeys(names, "a b")))
    assert {split: len(found) for split, found in data.splits.items()} == {"train": 4, "validation": 4, "test": 4}
    picture(tmp_path / "more" / "x.png")
    (tmp_path / names[0] / "a" / "notes.txt").touch()
    (tmp_path / names[0] / "a" / "0.gif").touch()
    assert folder_classes(tmp_path).left_out == {
        "in the folder 'more', which is no split": 1,
        ".txt: no picture (PNG, JPEG, BMP, TIFF)": 1,
        ".gif: no picture (PNG, JPEG, BMP, TIFF)": 1,
    }
    picture(tmp_path / "tset" / "a" / "x.png")
    with pytest.raises(LabelError, match=r"'tset' in .* is no split \(did you mean 'test'\?\); rename it"):
        folder_classes(tmp_path)
    shutil.rmtree(tmp_path / "tset")
    (tmp_path / "Validation").mkdir()
    with pytest.raises(LabelError, match="are both folders of the split 'validation'; keep one"):
        folder_classes(tmp_path)


def test_a_test_folder_alone_serves_a_network_that_is_there(tmp_path: Path) -> None:
    parted(tmp_path, test="a b")
    with pytest.raises(LabelError, match=r"test in .* are folders of splits, and there is none for training"):
        image_task("folders", tmp_path)
    data = image_task("folders", tmp_path, classes=["b", "a"])
    assert (data.classes, data.labels_of("test"), data.labels_of("train")) == (["b", "a"], [0, 0, 1, 1], [])
    with pytest.raises(LabelError, match="differ from those of 'the network'"):
        image_task("folders", tmp_path, classes=["a", "c"])


def test_a_network_of_other_classes_is_refused(tmp_path: Path) -> None:
    parted(tmp_path, train="a b", test="a b")
    assert image_task("folders", tmp_path, classes=["b", "a"]).labels_of("test") == [1, 1, 0, 0]
    with pytest.raises(LabelError, match="must be those of the network, a, c, found a, b"):
        image_task("folders", tmp_path, classes=["a", "c"])
    file = organ_file(tmp_path / "organsmnist.npz")
    with pytest.raises(LabelError, match="must be those of the network, a, c, found bladder"):
        image_task("organ_s_mnist", file, classes=["a", "c"])


def test_folders_named_in_two_unicode_forms_are_one_class(tmp_path: Path) -> None:
    composed, decomposed = "h\u00e9matome", "he\u0301matome"
    data = folder_classes(parted(tmp_path, train=f"{composed} b", test=f"{decomposed} b"))
    assert data.classes == ["b", composed]
    assert any("2 Unicode forms" in sentence for sentence in data.statements)
