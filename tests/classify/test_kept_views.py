"""Views of picture files are made once, and are what they would have been."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from medssl_monai.classify.pictures import data as data_module
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.kept_views import KeptViews
from medssl_monai.classify.pictures.view import ImageViewd
from medssl_monai.errors import LabelError
from medssl_monai.store.epochs import SampleKey
from tests.classify.made_pictures import picture

COUNT = 6


class Files(ImageFiles):
    """Counts what is read."""

    read = 0

    def __getitem__(self, index: Any) -> Any:
        self.read += 1
        return super().__getitem__(index)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> KeptViews:
    memory = KeptViews()
    monkeypatch.setattr(data_module, "KEPT_VIEWS", memory)
    return memory


@pytest.fixture
def pictures(tmp_path: Path) -> ImageData:
    paths = [tmp_path / f"{i}.png" for i in range(COUNT)]
    for i, path in enumerate(paths):
        picture(path, (20, 30, 3) if i % 2 else (20, 30), seed=i)
    files, labels = Files(paths, tmp_path), np.arange(COUNT) % 2
    return ImageData("x", ["a", "b"], files, labels, [""] * COUNT, {"train": list(range(COUNT))})


def test_a_file_is_read_once_and_gives_the_same_views(pictures: ImageData, kept: KeptViews) -> None:
    view = ImageViewd(16, augment=True)
    dataset, plain = pictures.dataset("train", view), pictures.dataset("train")
    first = [dataset[SampleKey(epoch, i)] for epoch in range(4) for i in range(COUNT)]
    assert pictures.images.read == COUNT  # type: ignore[union-attr]
    assert kept.bytes == COUNT * 3 * 16 * 16 * 4
    made = [view(plain[SampleKey(epoch, i)]) for epoch in range(4) for i in range(COUNT)]
    for one, other in zip(first, made, strict=True):
        assert one.keys() == other.keys()
        assert torch.equal(one["image"], other["image"])


def test_a_transform_of_ones_own_sees_every_picture(pictures: ImageData, kept: KeptViews) -> None:
    class Negative(ImageViewd):
        def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
            return {**super().__call__(data), "mine": True}

    assert pictures.dataset("train", Negative(16))[SampleKey(0, 0)]["mine"]
    assert kept.bytes == 0


def test_who_changes_a_view_changes_his_own(pictures: ImageData, kept: KeptViews) -> None:
    dataset = pictures.dataset("train", ImageViewd(16))
    for _ in range(3):
        image = dataset[SampleKey(0, 0)]["image"]
        assert image.abs().sum() > 0
        image.zero_()


def test_another_view_and_a_changed_file_are_made_again(pictures: ImageData, kept: KeptViews, tmp_path: Path) -> None:
    small, large = (pictures.dataset("train", ImageViewd(size)) for size in (8, 16))
    before = small[SampleKey(0, 0)]["image"]
    assert large[SampleKey(0, 0)]["image"].shape == (3, 16, 16)
    assert torch.equal(small[SampleKey(0, 0)]["image"], before)
    path = tmp_path / "0.png"
    picture(path, (20, 30), seed=99)
    os.utime(path, (1, 1))
    assert not torch.equal(small[SampleKey(0, 0)]["image"], before)
    path.unlink()
    with pytest.raises(LabelError, match="picture 0: cannot be read"):
        small[SampleKey(0, 0)]


def test_a_full_memory_keeps_what_it_has() -> None:
    memory, made = KeptViews(most_bytes=8), []

    def view(key: int) -> torch.Tensor:
        made.append(key)
        return torch.tensor([float(key)])

    for key in (1, 2, 3, 1, 2, 3):
        memory.get("group", key, partial(view, key))
    assert made == [1, 2, 3, 3]
    assert memory.bytes == 8


@pytest.mark.filterwarnings("ignore:This process")
def test_workers_keep_nothing(pictures: ImageData, kept: KeptViews) -> None:
    dataset = pictures.dataset("train", ImageViewd(16))
    batches = [batch["image"] for _ in range(2) for batch in DataLoader(dataset, batch_size=COUNT, num_workers=1)]
    assert torch.equal(*batches)
    assert kept.bytes == 0
