from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from medssl_monai.transforms.draws import sample_generator
from medssl_monai.transforms.spatial import Crop, Interpolation, draw_resized_crop, resample, resample_affine
from tests.transforms.body_slices import body_slice, psnr_db

METHODS: list[Interpolation] = ["bilinear", "bicubic"]
BOXES = [
    ((10, 20, 480, 460), (224, 224)),  # reduced by 2
    ((0, 0, 512, 512), (96, 64)),  # by 5 and 8
    ((100, 100, 60, 50), (224, 224)),  # enlarged
    ((3, 7, 250, 100), (224, 224)),  # one axis each way
    ((511, 511, 1, 1), (32, 32)),
    ((0, 0, 512, 512), (7, 33)),
]


def torchvision_crop(
    image: np.ndarray[Any, Any], box: tuple[int, int, int, int], size: tuple[int, int], interpolation: str
) -> np.ndarray[Any, Any]:
    tensor = torch.from_numpy(image.astype(np.float32))[None]
    mode = InterpolationMode(interpolation)
    return np.asarray(tv.resized_crop(tensor, *box, size=list(size), interpolation=mode, antialias=True)[0])


def scaling(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([[box[3] / size[1], 0, box[1]], [0, box[2] / size[0], box[0]], [0, 0, 1]], np.float64)


@pytest.mark.parametrize("interpolation", METHODS)
@pytest.mark.parametrize(("box", "size"), BOXES)
def test_upright_boxes_equal_torchvision(
    box: tuple[int, int, int, int], size: tuple[int, int], interpolation: Interpolation
) -> None:
    image = body_slice()
    expected = torchvision_crop(image, box, size, interpolation)
    np.testing.assert_allclose(resample(image, Crop(*box), size, interpolation), expected, atol=0.05)  # HU


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 70), st.integers(2, 70), st.data())
def test_any_box_equals_torchvision(height: int, width: int, rows: int, columns: int, data: st.DataObject) -> None:
    """Views from two columns on: torch 2.14 repeats the first row when a single column is resized to a single one."""
    image = np.random.default_rng(height).integers(-1024, 3071, (height, width)).astype(np.int16)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    box = (top, left, data.draw(st.integers(1, height - top)), data.draw(st.integers(1, width - left)))
    interpolation = data.draw(st.sampled_from(METHODS))
    expected = torchvision_crop(image, box, (rows, columns), interpolation)
    np.testing.assert_allclose(resample(image, Crop(*box), (rows, columns), interpolation), expected, atol=0.1)


@pytest.mark.parametrize("interpolation", METHODS)
def test_the_affine_path_agrees_with_the_separable_one(interpolation: Interpolation) -> None:
    """OpenCV may round positions to 1/32 pixel; the views stay within 40 dB."""
    image = body_slice()
    for box, size in BOXES[:4]:
        expected = torchvision_crop(image, box, size, interpolation)
        assert psnr_db(resample_affine(image, scaling(box, size), size, interpolation), expected) > 40


def test_flips_mirror_the_view() -> None:
    image = body_slice(200, 180)
    box = (5, 6, 170, 150)
    plain = resample(image, Crop(*box), (64, 96))
    np.testing.assert_array_equal(resample(image, Crop(*box, flip_horizontal=True), (64, 96)), plain[:, ::-1])
    np.testing.assert_array_equal(resample(image, Crop(*box, flip_vertical=True), (64, 96)), plain[::-1])
    for flips in ((True, False), (False, True), (True, True)):
        turned = resample(image, Crop(*box, rotation_degrees=25), (64, 96))
        both = resample(image, Crop(*box, *flips, rotation_degrees=25), (64, 96))
        mirrored = turned[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
        assert psnr_db(both, mirrored) > 45


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_are_counter_clockwise(quarters: int) -> None:
    image = body_slice(256, 256)
    turned = resample(image, Crop(0, 0, 256, 256, rotation_degrees=90 * quarters), (256, 256))
    np.testing.assert_allclose(turned, np.rot90(image, quarters), atol=0.5)
    reduced = resample(image, Crop(0, 0, 256, 256, rotation_degrees=90 * quarters), (96, 96))
    assert psnr_db(reduced, np.rot90(resample(image, Crop(0, 0, 256, 256), (96, 96)), quarters)) > 40


def test_a_turn_by_any_angle_is_antialiased() -> None:
    """Oracle: turn at full size with many samples a pixel, then average."""
    image, size, many = body_slice(), 128, 8
    crop = Crop(60, 70, 400, 380, rotation_degrees=33)
    fine = resample(image, crop, (size * many, size * many))
    oracle = fine.reshape(size, many, size, many).mean((1, 3))
    view = resample(image, crop, (size, size))
    naive = fine[many // 2 :: many, many // 2 :: many]
    assert psnr_db(view, oracle) > 38
    assert psnr_db(view, oracle) > psnr_db(naive, oracle)


def test_outside_the_slice_is_air() -> None:
    image = np.full((40, 40), 100, np.int16)
    view = resample(image, Crop(-40, -40, 120, 120), (120, 120))
    assert (view[:40] == -1024).all() and (view[40:80, 40:80] == 100).all() and (view[:, 80:] == -1024).all()
    assert (resample(image, Crop(100, 100, 8, 8), (8, 8)) == -1024).all()
    turned = resample(image, Crop(0, 0, 40, 40, rotation_degrees=45), (40, 40))
    assert turned[0, 0] == -1024 and turned[20, 20] == pytest.approx(100, abs=1e-3)


def test_boxes_may_begin_between_pixels() -> None:
    """A ramp is reproduced wherever the box lies, by linear and by cubic interpolation."""
    ramp = np.tile(np.arange(100.0), (100, 1)).astype(np.float32)
    for interpolation in METHODS:
        view = resample(ramp, Crop(10.3, 20.7, 30.0, 40.5), (15, 27), interpolation)
        expected = 20.7 + (np.arange(27) + 0.5) * 1.5 - 0.5
        np.testing.assert_allclose(view[:, 3:-3], np.tile(expected[3:-3], (15, 1)), atol=0.05)
    whole = resample(ramp, Crop(0, 0, 100, 100), (100, 100), "bicubic")
    np.testing.assert_allclose(whole, ramp, atol=1e-3)


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 2**32))
def test_drawn_boxes_lie_inside(height: int, width: int, seed: int) -> None:
    for scale, ratio in (((0.67, 1.0), (0.75, 4 / 3)), ((0.05, 0.2), (0.5, 2.0)), ((1.0, 1.0), (1.0, 1.0))):
        top, left, rows, columns = draw_resized_crop(sample_generator(seed, 0, 0), height, width, scale, ratio)
        assert rows >= 1 and columns >= 1
        assert 0 <= top <= height - rows and 0 <= left <= width - columns


def test_boxes_are_distributed_as_torchvision_draws_them() -> None:
    """Means of side, ratio and place over 4000 draws, each within five standard errors."""
    image, scale, ratio = torch.empty(1, 300, 400), (0.2, 1.0), (3 / 4, 4 / 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(4000)], float)
    rng = sample_generator(0, 0, 0)
    ours = np.array([draw_resized_crop(rng, 300, 400, scale, ratio) for _ in range(4000)], float)
    for a, b in (
        (ours, theirs),
        (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),  # area
        (np.log(ours[:, 3] / ours[:, 2]), np.log(theirs[:, 3] / theirs[:, 2])),
    ):
        error = np.sqrt((a.var(0) + b.var(0)) / 4000)
        assert np.all(abs(a.mean(0) - b.mean(0)) < 5 * error)
        assert np.all(abs(a.std(0) / b.std(0) - 1) < 0.08)


@pytest.mark.parametrize(("height", "width"), [(20, 600), (600, 20), (16, 16)])
def test_the_fallback_is_torchvisions_central_box(height: int, width: int) -> None:
    """No box of an allowed ratio fits: both fall back to the centre."""
    scale, ratio = (1.0, 1.0), (3.0, 3.1) if height == width else (0.9, 1.1)
    theirs = RandomResizedCrop.get_params(torch.empty(1, height, width), list(scale), list(ratio))
    assert draw_resized_crop(sample_generator(0, 0, 0), height, width, scale, ratio) == theirs


def test_wrong_boxes_are_refused() -> None:
    image = np.zeros((8, 8), np.int16)
    with pytest.raises(ValueError, match="larger than 0"):
        resample(image, Crop(0, 0, 0, 4), (8, 8))
    with pytest.raises(ValueError, match="nearest"):
        resample(image, Crop(0, 0, 4, 4), (8, 8), "nearest")  # type: ignore[arg-type]


def test_the_users_thread_setting_is_left_alone() -> None:
    before = cv2.getNumThreads()
    resample(np.zeros((64, 64), np.int16), Crop(0, 0, 64, 64, rotation_degrees=10), (32, 32))
    assert cv2.getNumThreads() == before
