import dataclasses
import math
import pickle
from typing import Any

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
from medssl_monai.transforms import (
    MultiCropViews,
    MultiCropViewsd,
    TwoViews,
    TwoViewsd,
    ViewParameters,
    ViewRecipe,
    sample_generator,
)
from medssl_monai.transforms.draws import log_uniform
from medssl_monai.transforms.intensity import WindowJitter
from medssl_monai.transforms.photometric import NoiseParameters, PhotometricJitter, noisy
from medssl_monai.transforms.spatial import Crop
from tests.transforms.body_slices import body_slice

SMALL: dict[str, Any] = {"counts": (2, 3), "sizes": (64, 32), "scales": ((0.2, 1.0), (0.05, 0.2))}
UPRIGHT: dict[str, Any] = {"rotation": 0.0, "flip_vertical": 0.0, "jitter": 0.8}
REFERENCE: dict[str, Any] = {"window": "minmax", "window_jitter": None, "photometric_jitter": (0.4, 0.4)}


def item(index: int = 0, epoch: int = 0, height: int = 120, width: int = 100) -> dict[str, Any]:
    image = torch.from_numpy(body_slice(height, width, seed=index))[None]
    return {"image": image, "index": index, "epoch": epoch, "modality": "CT", "window_level": math.nan}


def smooth_slice(height: int = 256, width: int = 256) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Waves of more than ten view pixels: resampling once or twice makes little difference."""
    y, x = np.mgrid[:height, :width]
    waves = 400 * np.sin(2 * np.pi * x / 90) * np.cos(2 * np.pi * y / 70) + 30
    return np.asarray(waves, np.int16)


def torchvision_view(image: torch.Tensor, p: ViewParameters, size: int, low: float, high: float) -> torch.Tensor:
    """The same drawn parameters through torchvision's functions, one after another; not normalised."""
    hu = image.float()
    if p.crop.rotation_degrees:
        hu = tv.rotate(hu, p.crop.rotation_degrees, InterpolationMode.BILINEAR, fill=[-1024.0])
    box = [int(side) for side in (p.crop.top, p.crop.left, p.crop.height, p.crop.width)]
    view = tv.resized_crop(hu, *box, size=[size, size], interpolation=InterpolationMode.BILINEAR, antialias=True)
    view = tv.horizontal_flip(view) if p.crop.flip_horizontal else view
    view = tv.vertical_flip(view) if p.crop.flip_vertical else view
    width = (high - low) * p.window_jitter.width_factor
    level = (low + high) / 2 + p.window_jitter.level_shift * (high - low)
    unit = ((view - level) / width + 0.5).clamp(0, 1)
    steps = [
        (tv.adjust_brightness, p.photometric_jitter.brightness),
        (tv.adjust_contrast, p.photometric_jitter.contrast),
    ]
    for adjust, factor in reversed(steps) if p.photometric_jitter.contrast_first else steps:
        unit = adjust(unit, factor)
    if p.blur_sigma:
        taps = 2 * math.ceil(4 * p.blur_sigma) + 1
        unit = tv.gaussian_blur(unit, [taps, taps], [p.blur_sigma, p.blur_sigma])
    return torch.from_numpy(noisy(unit.numpy(), p.noise))


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("jitter", [{}, {"window_jitter": None, "photometric_jitter": (0.4, 0.4)}], ids=["hu", "paper"])
def test_upright_views_equal_torchvisions_chain(index: int, jitter: dict[str, Any]) -> None:
    """Within 1e-4 of the window's width, borders and extremes included."""
    recipe = {"window": [-160, 240], "flip_vertical": 0.5, "mean": 0.2, "std": 0.5, **jitter}
    views = MultiCropViews((1, 1), (96, 48), ((0.3, 1.0), (0.05, 0.3)), **recipe)
    image = torch.from_numpy(body_slice(200, 180))[None]
    parameters = views.draw(sample_generator(0, 0, index), 200, 180)
    for view, one, size in zip(views.apply(image, parameters), parameters, (96, 48), strict=True):
        expected = (torchvision_view(image, one, size, -160, 240) - 0.2) / 0.5
        torch.testing.assert_close(view, expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("index", range(8))
def test_turned_views_agree_with_torchvisions_chain(index: int) -> None:
    """One resampling against torchvision's two: away from the slice's edge, where the two smear the air differently."""
    views = TwoViews(96, rotation=1.0, jitter=0.8, window=[-400, 400])
    image = torch.from_numpy(smooth_slice())[None]
    parameters = views.draw(sample_generator(1, 0, index), 256, 256)
    assert all(p.crop.rotation_degrees for p in parameters)
    for view, one in zip(views.apply(image, parameters), parameters, strict=True):
        expected = torchvision_view(image, one, 96, -400, 400)
        edge = torchvision_view(torch.full_like(image, 400), _plain(one), 96, -400, 400) < 0.999
        far = torch.nn.functional.max_pool2d(edge.float()[None], 23, 1, 11)[0] == 0  # beyond the blur's reach
        assert far.float().mean() > 0.3
        error = (view - expected)[far]
        assert error.abs().max() < 0.02 and error.square().mean().sqrt() < 0.003


def _plain(p: ViewParameters) -> ViewParameters:
    return ViewParameters(p.crop, WindowJitter(), PhotometricJitter(), False, 0.0, NoiseParameters())


def test_a_turn_alone_is_torchvisions_rotation() -> None:
    views = TwoViews(128, window=[-400, 400])
    image = torch.from_numpy(smooth_slice(128, 128))[None]
    for degrees in (-170.0, -30.0, 12.5, 90.0, 133.0):
        one = dataclasses.replace(_plain(views.draw(sample_generator(0, 0, 0), 128, 128)[0]))
        one = dataclasses.replace(one, crop=Crop(0, 0, 128, 128, rotation_degrees=degrees))
        view = views.apply(image, (one, one))[0]
        inside = torchvision_view(torch.full_like(image, 400), one, 128, -400, 400) > 0.999
        difference = (view - torchvision_view(image, one, 128, -400, 400))[inside]
        assert inside.float().mean() > 0.7 and difference.abs().max() < 0.005


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 400), st.integers(8, 400), st.integers(0, 2**40), st.sampled_from([{}, REFERENCE]))
def test_any_slice_gives_views(height: int, width: int, seed: int, options: dict[str, Any]) -> None:
    views = MultiCropViews(**SMALL, rotation=0.5, flip_vertical=0.5, **options)
    image = np.random.default_rng(height).integers(-1024, 3072, (1, height, width)).astype(np.int16)
    before = image.copy()
    parameters = views.draw(sample_generator(seed, 0, 0), height, width)
    made = views.apply(image, parameters)
    assert [tuple(v.shape) for v in made] == [(1, 64, 64)] * 2 + [(1, 32, 32)] * 3
    assert all(v.dtype == torch.float32 and v.min() >= -1e-6 and v.max() <= 1 + 1e-6 for v in made)  # the blur rounds
    again = pickle.loads(pickle.dumps(parameters))
    assert again == parameters
    assert all(torch.equal(a, b) for a, b in zip(made, views.apply(torch.from_numpy(image), again), strict=True))
    np.testing.assert_array_equal(image, before)
    for p in parameters:
        assert p.crop.top >= 0 and p.crop.left >= 0
        assert p.crop.top + p.crop.height <= height and p.crop.left + p.crop.width <= width


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_a_flip_of_the_crop_mirrors_the_view(seed: int) -> None:
    """Everything after the resampling but the noise commutes with a flip."""
    views = TwoViews(32, **UPRIGHT, noise=0.0, flip_horizontal=0.0, **REFERENCE)
    image = body_slice(90, 80)[None]
    parameters = views.draw(sample_generator(seed, 0, 0), 90, 80)
    mirrored = tuple(dataclasses.replace(p, crop=dataclasses.replace(p.crop, flip_horizontal=True)) for p in parameters)
    for plain, flipped in zip(views.apply(image, parameters), views.apply(image, mirrored), strict=True):
        torch.testing.assert_close(flipped, plain.flip(-1), atol=1e-5, rtol=0)


TRANSFORMS = [MultiCropViewsd(seed=7, **SMALL), TwoViewsd(seed=7, image_size=48), TwoViewsd(seed=7, **REFERENCE)]


@pytest.mark.parametrize("transform", TRANSFORMS, ids=["swav", "two", "reference"])
def test_a_batch_equals_its_elements_alone_in_any_order(transform: MultiCropViewsd) -> None:
    forward = [transform(item(index, epoch=3)) for index in range(3)]
    backward = [transform(item(index, epoch=3)) for index in reversed(range(3))][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a["views"], b["views"], strict=True))
    assert not torch.equal(forward[0]["views"][0], forward[0]["views"][1])
    assert not torch.equal(forward[0]["views"][0], transform(item(0, 4))["views"][0])


class Slices(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        return MultiCropViewsd(seed=0, rotation=0.5, **SMALL)(item(index, epoch=1))


def test_workers_change_nothing() -> None:
    alone = list(DataLoader(Slices(), batch_size=2))
    shared = list(DataLoader(Slices(), batch_size=2, num_workers=2))
    for a, b in zip(alone, shared, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a["views"], b["views"], strict=True))
        assert [tuple(v.shape) for v in a["views"]] == [(2, 1, 64, 64)] * 2 + [(2, 1, 32, 32)] * 3


def test_draws_have_the_stated_frequencies_and_ranges() -> None:
    recipe = ViewRecipe(
        rotation=0.5, flip_horizontal=0.3, flip_vertical=0.7, jitter=0.8, photometric_jitter=(0.4, 0.2), grey=0.2
    )
    rng = sample_generator(0, 0, 0)
    drawn = [recipe.draw(rng, 300, 200, (0.2, 1.0)) for _ in range(3000)]
    hits = [
        (0.5, [p.crop.rotation_degrees != 0 for p in drawn]),
        (0.3, [p.crop.flip_horizontal for p in drawn]),
        (0.7, [p.crop.flip_vertical for p in drawn]),
        (0.8, [p.window_jitter != WindowJitter() for p in drawn]),
        (0.2, [p.grey for p in drawn]),
        (0.5, [p.blur_sigma > 0 for p in drawn]),
        (0.5, [p.noise.variance > 0 for p in drawn]),
    ]
    for share, hit in hits:
        assert abs(np.mean(hit) - share) < 4 * math.sqrt(share * (1 - share) / 3000)
    assert all((p.window_jitter != WindowJitter()) == (p.photometric_jitter != PhotometricJitter()) for p in drawn)
    blurs, noises = (
        [x for x in xs if x] for xs in zip(*((p.blur_sigma, p.noise.variance) for p in drawn), strict=True)
    )
    assert 0.1 <= min(blurs) < 0.15 and 1.95 < max(blurs) <= 2.0
    assert min(noises) >= 1e-5 * (1 - 1e-9) and max(noises) <= 1e-4 * (1 + 1e-9)
    assert np.median(np.log10(noises)) == pytest.approx(-4.5, abs=0.05)
    degrees = np.array([p.crop.rotation_degrees for p in drawn])
    assert degrees.min() < -175 and degrees.max() > 175
    assert len({p.noise.seed for p in drawn}) > 1400
    assert log_uniform(rng, 1e-5, 1e-5) == pytest.approx(1e-5)


def test_draws_are_pinned() -> None:
    """A run recorded today must replay tomorrow: neither the numbers nor their order may change."""
    recipe = ViewRecipe(rotation=0.5, photometric_jitter=(0.4, 0.4), grey=0.2)
    drawn = [recipe.draw(sample_generator(1, 2, index), 512, 400, (0.2, 1.0)) for index in (2, 3)]
    crops = [(46, 17, 429, 379, False, False, 0.0), (108, 126, 311, 241, True, False, -147.50977379124737)]
    jitters = [
        (0.0, 1.0, 1.0, 1.0, False),
        (-0.09004032047932782, 1.0721324010166484, 0.6459545849576233, 1.1804037413933872, False),
    ]
    rest = [(True, 0.39772044948099794, 1.533649056331423e-05, 1142614738602069), (False, 1.0390989863660727, 0.0, 0)]
    for p, crop, jitter, others in zip(drawn, crops, jitters, rest, strict=True):
        assert _numbers(p.crop) == pytest.approx(crop)
        assert (*_numbers(p.window_jitter), *_numbers(p.photometric_jitter)) == pytest.approx(jitter)
        assert (p.grey, p.blur_sigma, *_numbers(p.noise)) == pytest.approx(others)


def _numbers(parameters: Crop | WindowJitter | PhotometricJitter | NoiseParameters) -> tuple[float, ...]:
    return dataclasses.astuple(parameters)


def test_dictionary_and_array_forms_have_the_same_defaults() -> None:
    for array, dictionary in ((MultiCropViews(), MultiCropViewsd(seed=0)), (TwoViews(), TwoViewsd(seed=0))):
        assert vars(dictionary.transform.recipe) == vars(array.recipe)
        assert dictionary.transform.crops == array.crops
    changed: dict[str, Any] = {"rotation": 0.1, "rotation_degrees": 9.0, "flip_vertical": 0.2, "grey": 0.3}
    made = TwoViewsd(seed=0, **changed, interpolation="bicubic").transform.recipe
    assert vars(made) == vars(ViewRecipe(jitter=1.0, **changed, interpolation="bicubic"))


def test_windows_and_channels() -> None:
    image = body_slice(64, 64)[None]
    plain: dict[str, Any] = {"rotation": 0.0, "flip_vertical": 0.0, "jitter": 0.0, "noise": 0.0}
    three = TwoViews(32, window=["lung", "soft_tissue", "bone"], **plain)
    parameters = three.draw(sample_generator(0, 0, 0), 64, 64)
    made = three.apply(image, parameters)[0]
    for channel, window in enumerate(("lung", "soft_tissue", "bone")):
        assert torch.equal(made[channel], TwoViews(32, window=window, **plain).apply(image, parameters)[0][0])
    greyed = tuple(dataclasses.replace(p, grey=True) for p in parameters)
    one = three.apply(image, greyed)[0]
    assert torch.equal(one[0], one[1]) and torch.equal(one[0], one[2]) and not torch.equal(one[0], made[0])
    repeated = TwoViews(32, mean=(0.1, 0.2, 0.3), std=0.5).apply(image, parameters)[0]
    torch.testing.assert_close(repeated[0] - repeated[2], torch.full((32, 32), 0.4))


def test_minmax_reads_the_whole_slice_not_the_crop() -> None:
    image = np.zeros((1, 128, 128), np.int16)
    image[0, 0, 0], image[0, 127, 127] = -500, 500
    transform = MultiCropViewsd(seed=0, window="minmax", window_jitter=None, **{**SMALL, "scales": ((0.2, 0.3),) * 2})
    for view in transform({**item(), "image": image, "modality": "MR"})["views"]:
        assert abs(view.median() - 0.5) < 0.01


def test_what_the_item_keeps() -> None:
    transform = TwoViewsd(seed=0, image_size=32)
    assert set(transform(item())) == {"views", "index", "epoch", "modality", "window_level"}
    assert "image" in TwoViewsd(seed=0, image_size=32, keep_image=True)(item())
    assert isinstance(transform, RandomizableTrait)  # MONAI's caching data sets must not cache past it
    with pytest.raises(NotHounsfieldError, match="MR"):
        transform({**item(), "modality": "MR"})
    with pytest.raises(ValueError, match="index"):
        transform({"image": item()["image"]})
    with pytest.raises(ValueError, match=r"\(1, H, W\)"):
        transform({**item(), "image": torch.zeros(3, 64, 64)})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rotation": 1.5}, "rotation 1.5 must be a probability"),
        ({"rotation_degrees": 200}, r"rotation_degrees 200 must lie in 0 \.\. 180"),
        ({"flip_horizontal": -0.1}, "flip_horizontal"),
        ({"jitter": 2}, "jitter 2"),
        ({"window_jitter": (2, 0)}, "window_jitter"),
        ({"photometric_jitter": (0.4, -0.4)}, "photometric_jitter"),
        ({"photometric_jitter": (0.4, 0.4, 0.4, 0.1)}, r"\(brightness, contrast\)"),
        ({"grey": 0.2, "window": ["lung", "bone"]}, "grey 0.2 mixes three windows"),
        ({"blur_sigma": (0.0, 2.0)}, "blur_sigma"),
        ({"noise_variance": (1e-4, 1e-5)}, "noise_variance"),
        ({"interpolation": "nearest"}, "bilinear or bicubic"),
        ({"counts": (2,)}, "lists of one length"),
        ({"counts": (2, 0)}, "counts"),
        ({"scales": ((0.1, 1.0), (0.1, 1.2))}, "scales"),
        ({"sizes": (224, 0)}, "image_size 0"),
        ({"std": 0.0}, "std"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiCropViewsd(seed=0, **arguments)
