import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2 import functional as tv

from medssl_monai.transforms.draws import sample_generator
from medssl_monai.transforms.photometric import (
    NoiseParameters,
    PhotometricJitter,
    adjust_brightness,
    adjust_contrast,
    blurred,
    draw_noise_seed,
    draw_photometric_jitter,
    grey,
    jittered,
    noisy,
)

Array = npt.NDArray[np.float32]

# The first four values of the noise with seed 123 on 8 x 8 pixels, standard deviation 1.
NOISE = [-0.95126, 0.09047, -0.99243, -0.44811]


def picture(windows: int = 1, height: int = 60, width: int = 50, seed: int = 0) -> Array:
    return np.random.default_rng(seed).random((windows, height, width), dtype=np.float32)


def theirs(view: Array) -> torch.Tensor:
    return torch.from_numpy(view)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 3), st.floats(0, 3), st.booleans(), st.integers(1, 40), st.integers(1, 40))
def test_jitter_equals_torchvision(brightness: float, contrast: float, first: bool, height: int, width: int) -> None:
    view = picture(1, height, width)
    np.testing.assert_allclose(adjust_brightness(view, brightness), tv.adjust_brightness(theirs(view), brightness))
    np.testing.assert_allclose(adjust_contrast(view, contrast), tv.adjust_contrast(theirs(view), contrast), atol=1e-6)
    if first:
        expected = tv.adjust_brightness(tv.adjust_contrast(theirs(view), contrast), brightness)
    else:
        expected = tv.adjust_contrast(tv.adjust_brightness(theirs(view), brightness), contrast)
    ours = jittered(view, PhotometricJitter(brightness, contrast, first))
    np.testing.assert_allclose(ours, expected, atol=3e-6)


def test_saturation_and_hue_do_nothing_on_grey_images() -> None:
    """Why they are no arguments: torchvision's luma weights sum to 0.9999, and that is all the difference."""
    rgb = theirs(picture()).expand(3, -1, -1)
    torch.testing.assert_close(ColorJitter(saturation=0.4, hue=0.2)(rgb), rgb, atol=2e-4, rtol=0)


def test_contrast_of_each_window_is_about_its_own_mean() -> None:
    view = picture(3)
    changed = adjust_contrast(view, 0.6)
    for window in range(3):
        np.testing.assert_array_equal(changed[window : window + 1], adjust_contrast(view[window : window + 1], 0.6))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 2), st.integers(9, 60), st.integers(9, 60), st.sampled_from([1, 3]))
def test_blur_equals_torchvision(sigma: float, height: int, width: int, windows: int) -> None:
    view = picture(windows, height, width)
    taps = 2 * math.ceil(4 * sigma) + 1
    expected = tv.gaussian_blur(theirs(view), [taps, taps], [sigma, sigma])
    np.testing.assert_allclose(blurred(view, sigma), expected, atol=2e-6)


def test_blur_widens_by_its_sigma_and_keeps_the_sum() -> None:
    point = np.zeros((1, 41, 41), np.float32)
    point[0, 20, 20] = 1
    spread = blurred(point, 1.5)[0]
    offsets = np.arange(41) - 20
    assert spread.sum() == pytest.approx(1, abs=1e-5)
    assert (spread.sum(0) * offsets**2).sum() == pytest.approx(1.5**2, rel=0.01)
    assert blurred(picture(2, 3, 1), 2.0).shape == (2, 3, 1)  # smaller than the filter


def test_grey_equals_torchvision() -> None:
    view = picture(3)
    expected = tv.rgb_to_grayscale(theirs(view), num_output_channels=3)
    np.testing.assert_allclose(grey(view), expected, atol=1e-6)
    assert grey(picture(1)) is not None and np.array_equal(grey(picture(1)), picture(1))


def test_noise_is_white_gaussian_and_replays() -> None:
    middle = np.full((1, 400, 400), 0.5, np.float32)
    noise = NoiseParameters(variance=1e-4, seed=5)
    field = (noisy(middle, noise) - middle)[0] / 0.01
    assert np.array_equal(noisy(middle, noise), noisy(middle, NoiseParameters(1e-4, 5)))
    assert not np.array_equal(noisy(middle, noise), noisy(middle, NoiseParameters(1e-4, 6)))
    assert abs(field.mean()) < 5 / 400 and field.var() == pytest.approx(1, abs=0.02)
    assert (field**4).mean() == pytest.approx(3, abs=0.1)  # a Gaussian's
    assert (abs(field) > 1.959964).mean() == pytest.approx(0.05, abs=0.003)
    for neighbour in (field[1:] * field[:-1], field[:, 1:] * field[:, :-1], field[:200] * field[200:]):
        assert abs(neighbour.mean()) < 0.02


def test_noise_is_pinned() -> None:
    """A run recorded today must replay tomorrow, on any NumPy."""
    field = (noisy(np.full((1, 8, 8), 0.5, np.float32), NoiseParameters(1e-4, 123)) - 0.5) / 0.01
    np.testing.assert_allclose(field[0, 0, :4], NOISE, atol=1e-4)


def test_noise_is_one_field_for_all_windows_and_stays_in_range() -> None:
    view = np.stack([np.zeros((32, 32)), np.full((32, 32), 0.5), np.ones((32, 32))]).astype(np.float32)
    added = noisy(view, NoiseParameters(1e-4, 1)) - view
    assert added[0].min() == 0 and added[2].max() == 0
    np.testing.assert_allclose(added[0] + added[2], added[1], atol=1e-6)


def test_nothing_drawn_changes_nothing() -> None:
    view = picture(3)
    for same in (jittered(view, PhotometricJitter()), blurred(view, 0.0), noisy(view, NoiseParameters())):
        np.testing.assert_array_equal(same, view)
    rng = sample_generator(0, 0, 0)
    assert draw_photometric_jitter(rng, None) == PhotometricJitter()
    assert rng.random() == sample_generator(0, 0, 0).random()


def test_draws_have_torchvisions_ranges() -> None:
    rng = sample_generator(0, 0, 0)
    drawn = [draw_photometric_jitter(rng, (0.4, 1.5)) for _ in range(2000)]
    brightness, contrast = np.array([(d.brightness, d.contrast) for d in drawn]).T
    assert 0.6 <= brightness.min() < 0.61 and 1.39 < brightness.max() <= 1.4
    assert 0 <= contrast.min() < 0.02 and 2.48 < contrast.max() <= 2.5
    assert 0.45 < np.mean([d.contrast_first for d in drawn]) < 0.55
    assert len({draw_noise_seed(rng) for _ in range(100)}) == 100
