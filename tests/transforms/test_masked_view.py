import dataclasses
import json
import math
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms.traits import RandomizableTrait
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from medssl_monai.errors import NotHounsfieldError
from medssl_monai.transforms import SparKViews, SparKViewsd, sample_generator
from medssl_monai.transforms.intensity import WindowJitter
from tests.transforms.body_slices import body_slice

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def item(index: int = 0, epoch: int = 0, height: int = 120, width: int = 100) -> dict[str, Any]:
    image = torch.from_numpy(body_slice(height, width, seed=index))[None]
    return {"image": image, "index": index, "epoch": epoch, "modality": "CT", "window_level": math.nan}


def test_the_view_is_torchvisions_then_windowed_then_normalised() -> None:
    views = SparKViews((96, 128), flip=1.0, window=[-160, 240], mean=0.3, std=0.2)
    image = torch.from_numpy(body_slice())[None]
    parameters = views.draw(sample_generator(0, 0, 0), 512, 512)
    view, _ = views.apply(image, parameters)
    crop = parameters.crop
    box = [int(side) for side in (crop.top, crop.left, crop.height, crop.width)]
    mode = InterpolationMode.BICUBIC
    oracle = tv.resized_crop(image.float(), *box, size=[96, 128], interpolation=mode, antialias=True).flip(-1)
    oracle = (((oracle + 160) / 400).clamp(0, 1) - 0.3) / 0.2
    assert crop.flip_horizontal
    torch.testing.assert_close(view, oracle, atol=2e-3, rtol=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 600), st.integers(16, 600), st.integers(0, 2**40))
def test_any_slice_gives_a_view(height: int, width: int, seed: int) -> None:
    views = SparKViews((64, 96), window_jitter=(0.1, 0.2))
    image = np.random.default_rng(height).integers(-1024, 3072, (1, height, width)).astype(np.int16)
    parameters = views.draw(sample_generator(seed, 0, 0), height, width)
    view, mask = views.apply(image, parameters)
    assert view.shape == (1, 64, 96) and view.dtype == torch.float32
    assert view.min() >= 0 and view.max() <= 1
    assert mask.shape == (1, 2, 3) and mask.dtype == torch.bool and mask.sum() == 2
    crop = parameters.crop
    assert crop.top >= 0 and crop.left >= 0 and crop.top + crop.height <= height and crop.left + crop.width <= width


def test_visible_cells_are_counted_as_the_authors_count() -> None:
    with np.load(GOLDEN / "spark_mask_patchify.npz") as golden:
        meta = golden["meta"].item()
    for row in json.loads(meta)["len_keep_table"]:
        size, ratio = 32 * row["fmap"], row["mask_ratio"]
        if row["len_keep"] == 0:
            with pytest.raises(ValueError, match="visible"):
                SparKViews(size, mask_ratio=ratio)
        else:
            assert SparKViews(size, mask_ratio=ratio).visible == row["len_keep"]


def test_a_batch_equals_its_elements_alone_in_any_order() -> None:
    transform = SparKViewsd(seed=7, image_size=64, window_jitter=(0.05, 0.1))
    forward = [transform(item(index, epoch=3)) for index in range(4)]
    backward = [transform(item(index, epoch=3)) for index in reversed(range(4))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert torch.equal(a["views"][0], b["views"][0]) and torch.equal(a["mask"], b["mask"])
    assert not torch.equal(forward[0]["mask"], forward[1]["mask"])
    other_epoch, other_seed = transform(item(0, 4)), SparKViewsd(seed=8, image_size=64)(item(0, 3))
    for other in (other_epoch, other_seed):
        assert not torch.equal(other["views"][0], forward[0]["views"][0])


class Slices(Dataset[dict[str, Any]]):
    def __init__(self, transform: SparKViewsd) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.transform(item(index, epoch=1)), "threads": cv2.getNumThreads()}


def test_workers_change_nothing() -> None:
    dataset = Slices(SparKViewsd(seed=0, image_size=64))
    alone = list(DataLoader(dataset, batch_size=3))
    shared = list(DataLoader(dataset, batch_size=3, num_workers=2))
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a["views"][0], b["views"][0]) and torch.equal(a["mask"], b["mask"])
        assert a["views"][0].shape == (3, 1, 64, 64) and a["mask"].shape == (3, 1, 2, 2)
        assert a["index"].tolist() == b["index"].tolist()


def test_parameters_replay() -> None:
    views = SparKViews(64, window_jitter=(0.1, 0.1))
    parameters = views.draw(sample_generator(0, 0, 0), 120, 100)
    again = pickle.loads(pickle.dumps(parameters))
    assert again == parameters
    image = body_slice(120, 100)[None]
    before = image.copy()
    first, second = views.apply(image, parameters), views.apply(torch.from_numpy(image), again)
    assert torch.equal(first[0], second[0])
    np.testing.assert_array_equal(image, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        parameters.visible = ()  # type: ignore[misc]


def test_window_jitter_moves_the_window_in_hu() -> None:
    views = SparKViews(64, window=[0, 100])
    image = np.full((1, 64, 64), 50, np.int16)
    parameters = views.draw(sample_generator(0, 0, 0), 64, 64)
    assert parameters.jitter == WindowJitter()
    moved = dataclasses.replace(parameters, jitter=WindowJitter(level_shift=0.1, width_factor=2.0))
    view, _ = views.apply(image, moved)  # level 50 -> 60 HU, width 100 -> 200 HU
    torch.testing.assert_close(view, torch.full_like(view, (50 - 60) / 200 + 0.5))


def test_channels_follow_windows_or_means() -> None:
    image = body_slice(64, 64)[None]
    parameters = SparKViews(64).draw(sample_generator(0, 0, 0), 64, 64)
    three, _ = SparKViews(64, window=["lung", "soft_tissue", "bone"]).apply(image, parameters)
    for channel, window in enumerate(("lung", "soft_tissue", "bone")):
        assert torch.equal(three[channel], SparKViews(64, window=window).apply(image, parameters)[0][0])
    imagenet, _ = SparKViews(64, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).apply(image, parameters)
    plain, _ = SparKViews(64).apply(image, parameters)
    torch.testing.assert_close(imagenet[1:2], (plain - 0.456) / 0.224)


def test_minmax_reads_the_whole_slice_not_the_crop() -> None:
    image = np.zeros((1, 128, 128), np.int16)
    image[0, 0, 0], image[0, 127, 127] = -500, 500
    views = SparKViews(64, window="minmax", scale=(0.2, 0.3))
    parameters = views.draw(sample_generator(1, 0, 0), 128, 128)
    assert views.apply(image, parameters)[0].median() == 0.5


def test_what_the_item_keeps() -> None:
    transform = SparKViewsd(seed=0, image_size=64)
    out = transform(item())
    assert set(out) == {"views", "mask", "index", "epoch", "modality", "window_level"}
    assert "image" in SparKViewsd(seed=0, image_size=64, keep_image=True)(item())
    assert isinstance(transform, RandomizableTrait)  # MONAI's caching data sets must not cache past it


def test_items_that_do_not_fit() -> None:
    transform = SparKViewsd(seed=0, image_size=64)
    with pytest.raises(NotHounsfieldError, match="MR"):
        transform({**item(), "modality": "MR"})
    SparKViewsd(seed=0, image_size=64, window="minmax")({**item(), "modality": "MR"})
    without = item()
    del without["index"]
    with pytest.raises(ValueError, match="index"):
        transform(without)
    with pytest.raises(ValueError, match=r"\(1, H, W\)"):
        transform({**item(), "image": torch.zeros(3, 64, 64)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 100}, r"multiples of 32; try \[96, 96\]"),
        ({"image_size": (64, 0)}, "multiples of 32"),
        ({"image_size": 32}, "leaves 0 of 1 visible"),
        ({"mask_ratio": 0.0}, "leaves 49 of 49 visible"),
        ({"scale": (0.5, 1.5)}, "scale"),
        ({"ratio": (2, 1)}, "ratio"),
        ({"flip": 1.5}, "flip"),
        ({"patch_size": 16}, "patch_size 16"),
        ({"std": 0.0}, "std"),
        ({"window": ["lung", "bone"], "mean": (0.1, 0.2, 0.3)}, "do not fit"),
        ({"window_jitter": (2, 0)}, "window_jitter"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SparKViews(**arguments)
