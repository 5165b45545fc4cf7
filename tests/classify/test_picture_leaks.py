"""Audits of pictures: copies in two classes or two splits, and files that tell the class."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medssl_monai.classify.audited import audit
from medssl_monai.errors import InputError
from medssl_monai.ingest import build_store
from medssl_monai.labels.telltales import guessed, telltales
from tests.classify.made_pictures import organ_file
from tests.ingest.dicom_fixtures import KEY, anatomy


def scan(seed: int) -> Image.Image:
    """A grey picture, 64 x 64, that looks like no other of another seed."""
    return Image.fromarray(np.clip((anatomy(seed, 1)[0].astype(float) + 1024) / 12, 0, 255).astype(np.uint8))


def save(root: Path, name: str, picture: Image.Image, **how: Any) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    picture.save(root / name, **how)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Eight different pictures a class and split."""
    for number, place in enumerate(f"{split}/{label}" for split in ("train", "val", "test") for label in "ab"):
        for i in range(8):
            save(tmp_path, f"{place}/{i}.png", scan(100 * number + i))
    return tmp_path


def test_different_pictures_share_nothing(folders: Path) -> None:
    report = audit([folders])
    assert (report.exit_code, report.near_duplicates, report.telltales) == (0, (), ())
    assert [(one.name, one.slices, one.classes) for one in report.sets] == [
        (split, 16, {"a": 8, "b": 8}) for split in ("train", "validation", "test")
    ]


@pytest.mark.parametrize("kind", ["the same file", "the same pixels", "alike"])
def test_a_picture_in_two_classes_and_in_train_and_test(folders: Path, kind: str) -> None:
    original = scan(0)
    if kind == "the same file":
        (folders / "test/b/copy.png").write_bytes((folders / "train/a/0.png").read_bytes())
    elif kind == "the same pixels":
        save(folders, "test/b/copy.png", original.convert("RGBA"))
    else:
        save(folders, "test/b/copy.png", original.resize((120, 110)), quality=80, format="JPEG")
    report = audit([folders])
    assert report.exit_code == 1
    (found,) = report.near_duplicates
    assert (found.kind, found.first, found.second) == (kind, "train", "test")
    assert (found.first_series, found.first_label) == ("train/a/0.png", "a")
    assert (found.second_series, found.second_label) == ("test/b/copy.png", "b")
    assert f"{kind}: train/a/0.png (a, train) and test/b/copy.png (b, test)" in report.sentences()


def test_copies_within_a_split(folders: Path) -> None:
    save(folders, "train/a/copy.png", scan(1))
    assert [one.harmless for one in audit([folders]).near_duplicates] == [True]
    save(folders, "train/b/copy.png", scan(1))
    report = audit([folders])
    assert sorted(one.harmless for one in report.near_duplicates) == [False, False, True]
    assert report.exit_code == 1


def test_small_and_flat_pictures_are_compared_for_equality_alone(folders: Path) -> None:
    for split, label, value in (("train", "a", 7), ("test", "b", 7), ("test", "a", 9)):
        save(folders, f"{split}/{label}/flat.png", Image.new("L", (96, 96), value))
    (found,) = audit([folders]).near_duplicates
    assert (found.first_series, found.second_series) == ("train/a/flat.png", "test/b/flat.png")


def test_patients_in_train_and_test(folders: Path) -> None:
    save(folders, "train/a/DOE/0.png", scan(801))
    save(folders, "test/a/DOE/0.png", scan(802))
    report = audit([folders])
    assert [(one.what, one.first, one.second, one.harmless) for one in report.shared] == [
        ("patients", "train", "test", False)
    ]
    assert report.exit_code == 1


def test_files_that_tell_the_class(folders: Path) -> None:
    for path in folders.glob("*/b/*.png"):
        with Image.open(path) as picture:
            picture.convert("RGBA").save(path)
    report = audit([folders])
    assert report.exit_code == 1
    (found,) = report.telltales
    assert (found.fact, found.balanced_accuracy, found.chance) == ("colour mode", 1.0, 0.5)
    assert found.counts == {"L": {"a": 24, "b": 0}, "RGBA": {"a": 0, "b": 24}}


def test_a_table_of_pictures_takes_colour_and_a_store_of_pictures_is_compared(tmp_path: Path) -> None:
    colour = Image.merge("RGB", [scan(1), scan(2), scan(3)])
    rows = ["source,label,split"]
    for i, split in enumerate(("train", "train", "test", "test")):
        save(tmp_path, f"in/{i}.png", colour.rotate(90) if i == 0 else scan(10 + i))
        rows.append(f"in/{i}.png,{'ab'[i % 2]},{split}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    assert audit([table]).exit_code == 0
    save(tmp_path, "pre/x.png", scan(12))
    build_store([tmp_path / "pre"], tmp_path / "store", key=KEY, modality="OT", progress=False)
    report = audit([tmp_path / "store", table], key=KEY)
    assert [(one.first, one.second, one.second_series) for one in report.near_duplicates] == [
        ("store", "test", "in/2.png")
    ]
    assert report.exit_code == 1


def test_organ_s_mnist(tmp_path: Path) -> None:
    file = organ_file(tmp_path / "organsmnist.npz")
    assert audit([file]).exit_code == 0
    with np.load(file) as content:
        arrays = dict(content)
    arrays["test_images"][5] = arrays["train_images"][3]
    np.savez(file, **arrays)
    (found,) = audit([tmp_path]).near_duplicates
    assert (found.first_series, found.second_series) == ("organ_s_mnist[3]", f"organ_s_mnist[{44 + 22 + 5}]")


def test_no_input() -> None:
    with pytest.raises(InputError, match="found none"):
        audit([])


@given(st.lists(st.sampled_from("ab"), min_size=20, max_size=60).filter(lambda found: min(map(found.count, "ab")) > 1))
def test_facts_that_say_nothing_or_all(labels: list[str]) -> None:
    assert guessed(["PNG"] * len(labels), labels) == 0.5, "one value for all"
    assert guessed([str(i) for i in range(len(labels))], labels) == 0.5, "a value for each"
    assert guessed(labels, labels) == 1


def test_chance_is_not_reported() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        labels = generator.choice(["a", "b", "c"], 40).tolist()
        assert not telltales("x", {"format": generator.choice(["PNG", "JPEG"], 40).tolist()}, labels)
    assert not telltales("x", {"format": ["PNG", "JPEG"] * 2}, ["a", "b"] * 2), "four files agree by accident"
