"""Photometric changes of a windowed view: brightness, contrast, grey, blur and noise.

Shapes: view (windows, h, w) float32 in [0, 1], before and after. The operations are those of torchvision's
``functional`` on float images; of its ColorJitter only brightness and contrast remain, because saturation and hue do
nothing on grey images.
"""

import math
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from medssl_monai.transforms.draws import below, chance, sample_generator, uniform
from medssl_monai.transforms.spatial import one_thread_in_workers

Array: TypeAlias = npt.NDArray[np.float32]

_NOISE_STREAM = 1  # of the counter-based generator; samples use stream 0
LUMA = (0.2989, 0.587, 0.114)  # ITU-R BT.601, as torchvision rounds it


@dataclass(frozen=True)
class PhotometricJitter:
    """Factors of brightness and contrast, and which comes first."""

    brightness: float = 1.0
    contrast: float = 1.0
    contrast_first: bool = False


@dataclass(frozen=True)
class NoiseParameters:
    """White Gaussian noise: its variance on the scale of [0, 1], and the seed that replays it."""

    variance: float = 0.0
    seed: int = 0


def draw_photometric_jitter(rng: np.random.Generator, strength: tuple[float, float] | None) -> PhotometricJitter:
    """Each factor uniform in [max(0, 1 - strength), 1 + strength], in either order; nothing is drawn for None.

    torchvision shuffles four operations; the order of the two that act is a fair coin.
    """
    if strength is None:
        return PhotometricJitter()
    brightness, contrast = (uniform(rng, max(0.0, 1 - s), 1 + s) for s in strength)
    return PhotometricJitter(brightness, contrast, contrast_first=chance(rng, 0.5))


def draw_noise_seed(rng: np.random.Generator) -> int:
    """A seed for the noise of one view: all 53 bits of one draw."""
    return below(rng, 2**53)


def jittered(view: Array, jitter: PhotometricJitter) -> Array:
    """Brightness and contrast in the drawn order."""
    if jitter.contrast_first:
        return adjust_brightness(adjust_contrast(view, jitter.contrast), jitter.brightness)
    return adjust_contrast(adjust_brightness(view, jitter.brightness), jitter.contrast)


def adjust_brightness(view: Array, factor: float) -> Array:
    """Blend with black: factor · x, clipped."""
    return view if factor == 1 else np.clip(view * np.float32(factor), 0, 1)


def adjust_contrast(view: Array, factor: float) -> Array:
    """Blend with the mean: factor · x + (1 - factor) · mean, clipped; each window about its own mean."""
    if factor == 1:
        return view
    mean = view.mean((1, 2), dtype=np.float64, keepdims=True)
    return np.asarray(np.clip(view * np.float32(factor) + np.float32(1 - factor) * mean.astype(np.float32), 0, 1))


def grey(view: Array) -> Array:
    """Three windows replaced by their luma; one window is grey already."""
    if len(view) == 1:
        return view
    luma = np.tensordot(np.array(LUMA, np.float32), view, 1)  # (h, w)
    return np.stack([luma] * len(view))


def blurred(view: Array, sigma: float) -> Array:
    """Gaussian blur with ``sigma`` in pixels of the view, cut off beyond 4 sigma, reflected at the border."""
    reach = math.ceil(4 * sigma)
    if reach == 0:
        return view
    one_thread_in_workers()
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    out = [cv2.sepFilter2D(x, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_REFLECT_101) for x in view]
    return np.stack(out).astype(np.float32, copy=False)


def noisy(view: Array, noise: NoiseParameters) -> Array:
    """White Gaussian noise added and clipped; one field for all windows, since they show the same scan."""
    if noise.variance == 0:
        return view
    field = _standard_normal(view.shape[1:], noise.seed)
    return np.clip(view + np.float32(math.sqrt(noise.variance)) * field, 0, 1)


def _standard_normal(shape: tuple[int, ...], seed: int) -> Array:
    """Box and Muller (Ann. Math. Statist. 29, 1958), for NumPy does not promise to keep its own normal draws."""
    count = math.prod(shape)
    first, second = uniform_field(count, seed)
    radius, angle = np.sqrt(-2 * np.log1p(-first)), np.float32(2 * math.pi) * second
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].reshape(shape)


def uniform_field(count: int, seed: int) -> Array:
    """The numbers (2, ceil(count / 2)) in [0, 1) that ``count`` values of noise are made of."""
    # What Generator.random makes of the same words, a few times faster: 24 bits of each half.
    pairs = (count + 1) // 2
    words = sample_generator(seed, 0, 0, stream=_NOISE_STREAM).bit_generator.random_raw(pairs)
    halves = words.astype("<u8", copy=False).view("<u4")  # the lower one first
    return ((halves >> 8).astype(np.float32) * np.float32(2**-24)).reshape(2, pairs)
