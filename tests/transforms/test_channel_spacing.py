"""Three slices as channels: each is what the same draw makes of it alone, under one window."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import default_collate

from medssl_monai.errors import ConfigError
from medssl_monai.transforms import (
    DeviceViews,
    LabelledViewd,
    MultiCropViewsd,
    SparKViewsd,
    TwoViewsd,
    view_channels,
)
from tests.transforms.body_slices import body_slice
from tests.transforms.test_device_views import DEVICES

FIXED: dict[str, Any] = {"window": "wide", "mean": 0.25, "std": 0.5}
VIEWS: dict[str, Any] = {
    "two": (TwoViewsd, {"seed": 3, "image_size": 48, "rotation": 0.5, "photometric_jitter": (0.4, 0.4), **FIXED}),
    "grey": (TwoViewsd, {"seed": 3, "image_size": (24, 40), "rotation": 0.0, "grey": 1.0, **FIXED}),
    "multi": (MultiCropViewsd, {"seed": 3, "counts": (2, 2), "sizes": (64, 40), **FIXED}),
    "spark": (SparKViewsd, {"seed": 3, "image_size": 64, "window_jitter": (0.1, 0.4), **FIXED}),
}


def three(index: int = 0) -> dict[str, Any]:
    """A slice between its neighbours."""
    pixels = np.stack([body_slice(100, 90, seed=3 * index + n) for n in range(3)])
    about = {"modality": "CT", "window_level": 40.0, "window_width": 400.0}
    return {"image": torch.from_numpy(pixels), "index": index, "epoch": 1, **about}


def only(item: dict[str, Any], channel: int) -> dict[str, Any]:
    return {**item, "image": item["image"][channel : channel + 1]}


@pytest.mark.parametrize("name", VIEWS)
def test_each_channel_is_the_view_of_its_slice(name: str) -> None:
    kind, arguments = VIEWS[name]
    made = kind(**arguments, channel_spacing_mm=5)(three())["views"]
    for channel in range(3):
        alone = kind(**arguments)(only(three(), channel))["views"]
        for view, wanted in zip(made, alone, strict=True):
            assert view.shape == (3, *wanted.shape[1:])
            torch.testing.assert_close(view[channel], wanted[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("augment", [True, False])
def test_each_channel_of_a_labelled_view_is_its_slices(augment: bool) -> None:
    arguments: dict[str, Any] = {"image_size": 48, "seed": 2, "augment": augment, **FIXED}
    made = LabelledViewd(**arguments, channel_spacing_mm=5)(three())["image"]
    for channel in range(3):
        wanted = LabelledViewd(**arguments)(only(three(), channel))["image"]
        torch.testing.assert_close(made[channel], wanted[channel], rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", ["minmax", "tags"])
def test_the_window_of_the_slice_itself_holds_for_all(window: str) -> None:
    item = three()
    item["image"][0] = 3000  # brighter than the slice itself: 1 under its window
    view = LabelledViewd(image_size=48, window=window, channel_spacing_mm=5, augment=False)(item)["image"]
    alone = LabelledViewd(image_size=48, window=window, augment=False)(only(item, 1))["image"]
    torch.testing.assert_close(view[1], alone[0], rtol=0, atol=1e-6)
    assert view[0, 24, 24] == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", VIEWS)
def test_views_on_the_device_are_those_of_the_cpu(name: str, device: str) -> None:
    kind, arguments = VIEWS[name]
    transform = kind(**arguments, channel_spacing_mm=5)
    items = [three(index) for index in range(4)]
    items[1]["image"] = items[1]["image"][:, :80]  # padded to the others
    views = DeviceViews(transform)
    made = views.apply(views.collate([views.draw(item) for item in items]), device)
    wanted = default_collate([{"views": transform(item)["views"]} for item in items])
    for one, other in zip(made["views"], wanted["views"], strict=True):
        difference = (one.cpu() - other).abs() * 0.5
        assert difference.max() < 0.02 and difference.square().mean().sqrt() < 5e-4  # as test_device_views.py has them


def test_partners_have_neighbours_too() -> None:
    transform = TwoViewsd(seed=3, image_size=32, channel_spacing_mm=5, **FIXED)
    both = transform({**three(), "partner_slice": three(1)})["views"]
    assert torch.equal(both[0], transform(three())["views"][0])
    assert all(view.shape == (3, 32, 32) for view in both)


def test_channels_are_three_and_have_one_window() -> None:
    assert [view_channels("wide", 0.25, 0.25, spacing) for spacing in (0, 5)] == [1, 3]
    assert TwoViewsd(seed=0, channel_spacing_mm=5).channel_spacing_mm == 5.0
    for kind in (TwoViewsd, MultiCropViewsd, SparKViewsd, LabelledViewd):
        with pytest.raises(ConfigError, match="slices under one window, found 3 windows; give one window, or"):
            kind(seed=0, window="medgemma", channel_spacing_mm=5)
    for wrong in (-1, float("nan"), "5mm", True, None):
        with pytest.raises(ConfigError, match="channel_spacing_mm: must be a number of mm"):
            LabelledViewd(channel_spacing_mm=wrong)
    with pytest.raises(ValueError, match=r"shape \(3, 100, 90\): a slice \(1, H, W\) is needed"):
        TwoViewsd(seed=0)(three())
