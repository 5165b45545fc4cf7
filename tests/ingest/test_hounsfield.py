from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.ingest.hounsfield import PADDING_HU, not_hounsfield, padding_mask, rescale, to_slice
from medssl_monai.store.measures import body_fraction, hamming_distance, perceptual_hash


@given(
    stored=st.lists(st.integers(-32768, 65535), min_size=1, max_size=8),
    slope=st.sampled_from([1.0, -1.0, 2.0, 20.0, 0.5, 0.0625, 1.25]),
    intercept=st.sampled_from([0.0, -1024.0, -8192.0, 10.5, 40000.0]),
)
def test_rescaling_never_wraps(stored: list[int], slope: float, intercept: float) -> None:
    """Against exact fractions: rounded, then clipped to int16; what is below -1500 is padding."""
    pixels, flags = to_slice(rescale(np.array([stored]), slope, intercept))
    exact = [Fraction(value) * Fraction(slope) + Fraction(intercept) for value in stored]
    expected = [PADDING_HU if hu <= -1500 else min(round(hu), 32767) for hu in exact]
    assert pixels.tolist() == [expected]
    assert pixels.dtype == np.int16
    assert ("clipped" in flags) == any(round(hu) > 32767 for hu in exact)


def test_whole_numbers_stay_exact() -> None:
    stored = np.array([[2**31 + 1]], np.uint32)
    assert rescale(stored, 1.0, -1.0).tolist() == [[2**31]]


@pytest.mark.parametrize("padding", [-2000, -2048, -3024])
def test_undeclared_padding(padding: int) -> None:
    hu = np.array([[padding, -1000], [40, 3000]])
    pixels, flags = to_slice(hu)
    assert pixels.tolist() == [[-1024, -1000], [40, 3000]]
    assert flags == {"padded", "undeclared_padding"}


def test_declared_padding_is_no_repair() -> None:
    stored = np.array([[-2000, 24], [1064, 100]])
    mask = padding_mask(stored, 1, -1024, (-2000, -2000))
    pixels, flags = to_slice(rescale(stored, 1, -1024), mask)
    assert pixels.tolist() == [[-1024, -1000], [40, -924]]
    assert flags == {"padded"}


def test_padding_range() -> None:
    mask = padding_mask(np.array([[0, 5, 10, 11, 900]]), 1, -1024, (0, 10))
    assert mask.tolist() == [[True, True, True, False, False]]


def test_declared_padding_within_tissue_is_believed_only_with_a_corner() -> None:
    water = np.full((3, 3), 7)
    water[1, 1] = 0
    assert not padding_mask(water, 1, 0, (0, 0)).any()
    water[0, 0] = 0
    assert padding_mask(water, 1, 0, (0, 0)).sum() == 2


def test_lossy_padding_is_smeared() -> None:
    hu = np.array([[-3100, -1300, -1025, -1024, 0]])
    assert to_slice(hu, lossy=True).pixels.tolist() == [[-1024, -1024, -1024, -1024, 0]]
    assert to_slice(hu).pixels.tolist() == [[-1024, -1300, -1025, -1024, 0]]


def test_not_finite() -> None:
    pixels, flags = to_slice(np.array([[np.nan, np.inf, -np.inf, 12.5, 13.5]]))
    assert pixels.tolist() == [[-1024, -1024, -1024, 12, 14]]
    assert "non_finite" in flags


def _body(shape: tuple[int, ...] = (20, 20, 20)) -> np.ndarray:
    rng = np.random.default_rng(0)
    volume = rng.normal(-1000, 20, shape)
    volume[4:16, 4:16] = rng.normal(40, 30, volume[4:16, 4:16].shape)
    return volume


def test_a_body_in_air_is_hounsfield() -> None:
    assert not_hounsfield(_body()) == ""
    padded = _body()
    padded[:2] = -2048
    assert not_hounsfield(padded) == ""


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.clip((_body() + 160) / 400 * 255, 0, 255).astype(np.uint8), "as low as air"),
        (np.abs(_body()), "as low as air"),
        (_body() / 1000, "as low as air"),
        (np.random.default_rng(0).integers(-4096, 4095, (20, 20, 20)), "below air"),
        (np.full((3, 3, 3), -1000.0), "above air"),
        (np.where(np.indices((20, 20, 20))[0] < 2, -2000, _body() + 1024), "as low as air"),
        (np.full((3, 3, 3), -2048), "above air"),
        (_body() * 100, ""),
        (np.full((2, 2, 2), np.nan), "finite"),
    ],
    ids=["windowed", "magnitude", "normalised", "phase", "air", "shifted", "padding", "scaled", "nan"],
)
def test_what_is_not_hounsfield(values: np.ndarray, why: str) -> None:
    found = not_hounsfield(values)
    assert found
    assert why in found


def test_body_fraction() -> None:
    pixels = np.full((10, 10), -1000, np.int16)
    pixels[:5] = -299
    pixels[5] = -300
    assert body_fraction(pixels, "CT") == 0.5
    assert body_fraction(np.array([[0, 0, 100, 100]], np.int16), "MR") == 0.5


def test_hash_bits_by_the_definition() -> None:
    """Against the double sum of the DCT-II, without a matrix."""
    rng = np.random.default_rng(3)
    image = rng.integers(-1000, 1000, (64, 96)).astype(np.int16)
    coarse = image.reshape(32, 2, 32, 3).mean((1, 3))
    spectrum = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            wave_u = [np.cos(np.pi * u * (2 * y + 1) / 64) for y in range(32)]
            wave_v = [np.cos(np.pi * v * (2 * x + 1) / 64) for x in range(32)]
            spectrum[u, v] = sum(coarse[y, x] * wave_u[y] * wave_v[x] for y in range(32) for x in range(32))
    spectrum[0, 0] = 0
    bits = "".join("1" if value > np.median(spectrum) else "0" for value in spectrum.reshape(-1))
    assert perceptual_hash(image) == f"{int(bits, 2):016x}"


def test_hash_ignores_scale_and_notices_content() -> None:
    blocks = np.random.default_rng(1).integers(-900, 900, (16, 16))
    image = np.kron(blocks, np.ones((8, 8))).astype(np.int16)
    coarser = image.reshape(64, 2, 64, 2).mean((1, 3)).astype(np.int16)
    noisy = (image + np.random.default_rng(0).normal(0, 15, image.shape)).astype(np.int16)
    assert hamming_distance(perceptual_hash(image), perceptual_hash(coarser)) <= 4
    assert hamming_distance(perceptual_hash(image), perceptual_hash(noisy)) <= 4
    assert hamming_distance(perceptual_hash(image), perceptual_hash(image[::-1])) > 16
    assert perceptual_hash(np.full((5, 7), -1024, np.int16)) == "0" * 16
