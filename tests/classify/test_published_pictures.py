"""Data sets of the reference in their published layouts (made here), its splits, subsets and views as it drew them."""

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from medssl_monai.classify.audited import audit
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.published import ORGANS, covid_ct, image_task, organ_s_mnist
from medssl_monai.classify.pictures.table import image_table
from medssl_monai.classify.pictures.view import COVID_STATISTICS, ORGAN_STATISTICS, ImageViewd
from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.labels.subsets import (
    reference_subset,
)
from medssl_monai.store.epochs import SampleKey
from tests.classify.made_pictures import organ_file, parted, picture
from tests.golden import fill

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@pytest.fixture
def covid_root(tmp_path: Path) -> Path:
    counts = {("train", "COVID"): 6, ("val", "COVID"): 2, ("test", "COVID"): 3}
    counts |= {("train", "NonCOVID"): 7, ("val", "NonCOVID"): 2, ("test", "NonCOVID"): 4}
    for (split, name), count in counts.items():
        names = [f"{split}-{name}%{i}.{'png' if i % 2 else 'jpg'}" for i in range(count)]
        for i, file in enumerate(names):
            picture(tmp_path / f"CT_{name}" / file, (20, 30, 3) if i % 3 else (20, 30))
        table = tmp_path / "Data-split" / name / f"{split}CT_{name}.txt"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("\n".join(names) + "\n\n")
    return tmp_path


def test_covid_ct_as_published(covid_root: Path) -> None:
    picture(covid_root / "CT_COVID" / "stray.png")
    data = covid_ct(covid_root)
    assert data.classes == ["COVID", "NonCOVID"]
    assert {k: len(v) for k, v in data.splits.items()} == {"train": 13, "validation": 4, "test": 7}
    assert data.labels_of("test") == [0, 0, 0, 1, 1, 1, 1]
    assert data.left_out == {"in no official list": 1}
    assert any("patient unknown" in s for s in data.statements)
    view = ImageViewd(32, *COVID_STATISTICS, augment=True)
    batch = next(iter(DataLoader(data.dataset("train", view), batch_size=13)))
    assert batch["image"].shape == (13, 3, 32, 32)
    assert batch["label"].tolist() == [0] * 6 + [1] * 7
    assert set(batch["patient"]) == {""}


def test_covid_ct_in_one_folder_as_the_reference_had_it(covid_root: Path) -> None:
    before = covid_ct(covid_root)
    for name in ("COVID", "NonCOVID"):
        for path in (covid_root / f"CT_{name}").iterdir():
            path.rename(covid_root / path.name)
    after = covid_ct(covid_root)
    assert after.fingerprint == before.fingerprint
    reduced = image_task("covid_ct", covid_root, fraction=0.5, as_reference=True)
    assert list(reduced.splits["train"]) == reference_subset(13, 0.5)


@pytest.mark.parametrize("place", ["Images", "Images-processed", "COVID-CT-master/Images-processed"])
def test_covid_ct_at_any_depth(covid_root: Path, place: str) -> None:
    before = covid_ct(covid_root)
    for name in ("COVID", "NonCOVID"):
        (covid_root / place).mkdir(parents=True, exist_ok=True)
        (covid_root / f"CT_{name}").rename(covid_root / place / f"CT_{name}")
        picture(covid_root / "__MACOSX" / f"CT_{name}" / f"train-{name}%1.png", seed=7)
    (covid_root / "Data-split").rename(covid_root / place / "lists")
    after = covid_ct(covid_root)
    assert after.fingerprint == before.fingerprint
    assert not after.left_out
    assert after.file_of(0) == f"{place}/CT_COVID/train-COVID%0.jpg"
    picture(covid_root / "other" / "CT_COVID" / "train-COVID%1.png", seed=7)
    with pytest.raises(LabelError, match="is there 2 times with different content"):
        covid_ct(covid_root)


def test_covid_ct_names_what_is_missing(covid_root: Path) -> None:
    next((covid_root / "CT_COVID").glob("train*")).unlink()
    with pytest.raises(LabelError, match=r"a picture of trainCT_COVID.txt .* is missing"):
        covid_ct(covid_root)
    (covid_root / "Data-split" / "COVID" / "trainCT_COVID.txt").unlink()
    with pytest.raises(LabelError, match=r"official list trainCT_COVID\.txt"):
        covid_ct(covid_root)


@pytest.mark.parametrize("place", ["head_ct", "Dataset/head_ct", "head_ct/head_ct"])
def test_head_ct_at_any_depth(tmp_path: Path, place: str) -> None:
    for number in range(20):
        picture(tmp_path / place / f"{number:03d}.png", seed=number)
    rows = [f"{number},{int(number < 10)}" for number in range(20)]
    table = (tmp_path / place).parent / "labels.csv"
    table.write_text("id, hemorrhage\n" + "\n".join(rows) + "\n")
    data = image_task("head_ct", tmp_path)
    assert data.classes == ["normal", "hemorrhage"]
    assert [data.file_of(place)[-7:] for place in np.flatnonzero(data.labels).tolist()] == [
        f"{i:03d}.png" for i in range(10)
    ]
    assert {split: sorted(data.labels_of(split)) for split in ("validation", "test")} == {
        "validation": [0, 1],
        "test": [0, 0, 1, 1],
    }
    assert sorted(place for places in data.splits.values() for place in places) == list(range(20))
    assert not audit([tmp_path]).unchecked
    with pytest.raises(ConfigError, match="did not have the pictures of head_ct"):
        image_task("head_ct", tmp_path, as_reference=True)
    table.write_text("id, hemorrhage\n3,yes\n")
    with pytest.raises(LabelError, match="a number and 0 or 1, found '3,yes'"):
        image_task("head_ct", tmp_path)
    table.write_text("id, hemorrhage\n77,1\n")
    with pytest.raises(LabelError, match=r"the picture 077\.png is missing"):
        image_task("head_ct", tmp_path)


def test_organ_s_mnist_as_published(tmp_path: Path) -> None:
    file = organ_file(tmp_path / "organsmnist.npz")
    data = organ_s_mnist(tmp_path)
    assert data.classes == ORGANS
    assert len(ORGANS) == 11
    assert [len(data.splits[s]) for s in ("train", "validation", "test")] == [44, 22, 33]
    with np.load(file) as content:
        item = data.dataset("test")[5]
        assert (item["image"][1].numpy() == content["test_images"][5]).all()
        assert item["label"] == content["test_labels"][5, 0]
    reduced = image_task("organ_s_mnist", file, fraction=0.25, as_reference=True)
    assert list(reduced.splits["train"]) == list(range(11))
    stratified = image_task("organ_s_mnist", file, fraction=0.25)
    assert sorted(stratified.labels_of("train")) == list(range(11))


def test_organ_s_mnist_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="missing"):
        organ_s_mnist(tmp_path)
    np.savez(tmp_path / "organsmnist.npz", train_images=np.zeros((2, 28, 28), np.uint8))
    with pytest.raises(LabelError, match="no MedMNIST file"):
        organ_s_mnist(tmp_path)
    organ_file(tmp_path / "organsmnist.npz", val_labels=np.full((22, 1), 12, np.uint8))
    with pytest.raises(LabelError, match="labels 0 to 10"):
        organ_s_mnist(tmp_path)
    organ_file(tmp_path / "organsmnist.npz", val_labels=np.zeros((21, 1), np.uint8))
    with pytest.raises(LabelError, match="N labels"):
        organ_s_mnist(tmp_path)


def _cut(content: bytes) -> bytes:
    return content[:-30]


def _flipped(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


def _bracket(content: bytes) -> bytes:
    """A header of an array that is no Python literal; the archive's checksums fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as read, zipfile.ZipFile(out, "w") as written:
        for name in read.namelist():
            written.writestr(name, read.read(name).replace(b"'shape': (", b"'shape': ((", 1))
    return out.getvalue()


@pytest.mark.parametrize("damage", [_cut, _flipped, _bracket])
def test_a_damaged_organ_s_mnist_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = organ_file(tmp_path / "organsmnist.npz")
    with np.load(file) as arrays:
        np.savez_compressed(file, **dict(arrays))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(LabelError, match=r"organsmnist\.npz: no MedMNIST file .*fetch it again"):
        organ_s_mnist(file)


def deep_picture(path: Path, shape: tuple[int, ...]) -> None:
    import cv2

    cv2.imwrite(str(path), np.full(shape, 4096, np.uint16))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_sixteen_bits_are_refused(tmp_path: Path, ending: str, shape: tuple[int, ...]) -> None:
    deep_picture(tmp_path / f"DOE.{ending}", shape)
    with pytest.raises(LabelError, match="8 bits a channel") as caught:
        ImageFiles([tmp_path / f"DOE.{ending}"])[0]
    assert "DOE" not in str(caught.value)


def test_pictures_that_cannot_be_used_are_named_before_anything_is_trained(tmp_path: Path) -> None:
    parted(tmp_path, train="a b")
    Image.new("L", (8, 8)).save(tmp_path / "train" / "a" / "c.tif")  # 8 bits: taken
    assert len(image_task("folders", tmp_path).images) == 5
    deep_picture(tmp_path / "train" / "a" / "deep.png", (4, 4))
    (tmp_path / "train" / "b" / "no.jpg").write_bytes(b"no picture")
    pages = [Image.new("L", (8, 8)) for _ in range(3)]
    pages[0].save(tmp_path / "train" / "b" / "pages.tiff", save_all=True, append_images=pages[1:])
    with pytest.raises(LabelError, match="3 of 8 pictures cannot be used") as caught:
        image_task("folders", tmp_path)
    for words in ("train/a/deep.png: must have 8 bits", "train/b/no.jpg: cannot be read", "found 3 in one file"):
        assert words in str(caught.value)


def test_the_references_views(tmp_path: Path) -> None:
    meta, arrays = fill.load(GOLDEN / "downstream_transforms.npz")
    for i, case in enumerate(meta["cases"]):
        shape = tuple(case["shape"])
        made = np.clip(np.round(fill.raw("image", shape, case["seed"]).astype(np.float64) * 60 + 128), 0, 255)
        Image.fromarray(made.astype(np.uint8)).save(tmp_path / "image.png")
        organ = case["task"] == "organ"
        statistics = ORGAN_STATISTICS if organ else COVID_STATISTICS
        view = ImageViewd(224, *statistics, as_reference=True, transpose=not organ)
        data = ImageData("x", ["a"], ImageFiles([tmp_path / "image.png"]), np.zeros(1, np.int64), [""], {"test": [0]})
        out = data.dataset("test", view)[0]["image"].numpy()
        assert np.allclose(out[:, ::8, ::8], arrays[f"c{i}_out_strided"], atol=1e-5)
        assert np.allclose(out[:, :6, :6], arrays[f"c{i}_corner"], atol=1e-5)
        assert np.allclose(out.mean((1, 2)), arrays[f"c{i}_chan_mean_std"][0], atol=1e-5)
        # The upright view shows the same picture: its transpose, shrunk, is close to the reference's.
        upright = data.dataset("test", ImageViewd(224, *statistics))[0]["image"].numpy()
        assert abs(upright.mean() - out.mean()) < 0.05


def test_views_are_mirrored_by_seed_epoch_and_index() -> None:
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    data = ImageData("x", ["a"], images, np.zeros(30, np.int64), [""] * 30, {"train": list(range(30))})
    view = ImageViewd(8, *ORGAN_STATISTICS)
    dataset, plain = data.dataset("train", view.augmenting(True)), data.dataset("train", view)
    flips = []
    for index in range(30):
        key = SampleKey(1, index)
        view, same, upright = dataset[key]["image"], dataset[key]["image"], plain[index]["image"]
        assert view.equal(same)
        assert view.equal(upright) != view.equal(upright.flip(2))
        flips.append(bool(view.equal(upright)))
    assert 5 < sum(flips) < 25


def test_a_table_of_pictures(tmp_path: Path) -> None:
    lines = ["source,label,patient"]
    for i in range(24):
        picture(tmp_path / "in" / f"{i}.png", seed=i)
        lines.append(f"in/{i}.png,{'ab'[i // 2 % 2]},p{i // 2:02d}")
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(lines))
    data = image_task("table", path)
    assert data.classes == ["a", "b"]
    owners = [{data.patients[i] for i in part} for part in data.splits.values()]
    assert not owners[0] & owners[1] | owners[0] & owners[2] | owners[1] & owners[2]
    assert sum(map(len, data.splits.values())) == 24
    assert len(image_task("table", path, fraction=0.5, subset_unit="patients").splits["train"]) < len(
        data.splits["train"]
    )
    given = (
        path.read_text().replace(",p00", ",p00,test").replace(",p01", ",p01,train").replace("patient", "patient,split")
    )
    path.write_text(given.replace(",a,", ",a|b,"))
    several = image_table(path, multilabel=True, classes=["b", "a", "c"])
    assert {k: len(v) for k, v in several.splits.items()} == {"train": 2, "validation": 0, "test": 2}
    assert several.labels[[0, 2]].tolist() == [[1, 1, 0], [1, 0, 0]]
    assert several.dataset("test")[0]["label"].dtype == np.float32


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0.png,a\nnone.png,b", "row 2: the source does not exist"),
        ("0.png,a\n0.png,a", "row 2: the source is labelled in row 1 already"),
        ("0.png,a\nlabels.csv,b", "row 2: the source must be a picture"),
        ("0.png,a|b", "a slice has one class"),
    ],
)
def test_mistakes_in_a_table_of_pictures_are_named(rows: str, message: str, tmp_path: Path) -> None:
    picture(tmp_path / "0.png")
    path = tmp_path / "labels.csv"
    path.write_text(f"source,label\n{rows}\n")
    with pytest.raises(LabelError, match=re.escape(message)):
        image_table(path)
    path.write_text("source,label\n0.png,a\n")
    with pytest.raises(LabelError, match="is not a class of this network, which knows b"):
        image_table(path, classes=["b"])
    with pytest.raises(ConfigError, match="have one class each"):
        image_task("folders", tmp_path, task="multilabel")
