"""One antialiased resampling for crop, flip and rotation together.

Shapes: slice (H, W), view (h, w). Coordinates are continuous pixels: pixel k covers [k, k + 1), its centre lies at
k + 0.5. Outside the slice there is air, -1024 HU.

Upright boxes are resampled separably and exactly: each view pixel is the weighted mean of the pixels under an
interpolation kernel stretched by the reduction, the arithmetic of torchvision's ``resized_crop(antialias=True)``.
The weight matrices are banded; multiplied in blocks of rows they cost less than OpenCV's filters. Rotated boxes are
filtered along the slice's axes and read with OpenCV's ``warpAffine``.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import torch.utils.data

from medssl_monai.transforms.draws import below, log_uniform, uniform

AIR_HU = -1024
Interpolation: TypeAlias = Literal["bilinear", "bicubic"]
Array: TypeAlias = npt.NDArray[np.float32]

_SUPPORT: dict[str, float] = {"bilinear": 1.0, "bicubic": 2.0}
_BLOCK = 16  # view rows a matrix product; larger blocks multiply more zeros, smaller ones call more often


@dataclass(frozen=True)
class Crop:
    """Where a view lies: the slice is turned about its centre, the box cut out, the result flipped.

    The box is in pixels of the turned slice and may reach beyond it. ``rotation_degrees`` turns the content
    counter-clockwise as seen on a screen.
    """

    top: float
    left: float
    height: float
    width: float
    flip_horizontal: bool = False
    flip_vertical: bool = False
    rotation_degrees: float = 0.0


def draw_resized_crop(
    rng: np.random.Generator, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Draw a box (top, left, height, width) in whole pixels that lies inside a slice.

    Inception's crop as torchvision's RandomResizedCrop draws it: share of the area uniform in ``scale``, logarithm of
    the width-to-height ratio uniform in the logarithm of ``ratio``; ten tries, then the largest central box with
    an allowed ratio.
    """
    for _ in range(10):
        area = height * width * uniform(rng, *scale)
        aspect = log_uniform(rng, *ratio)
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = below(rng, height - box_height + 1), below(rng, width - box_width + 1)
            return top, left, box_height, box_width
    aspect = min(max(width / height, ratio[0]), ratio[1])
    box_width = min(width, max(1, round(height * aspect)))
    box_height = min(height, max(1, round(box_width / aspect)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resample(
    image: npt.NDArray[np.generic], crop: Crop, size: tuple[int, int], interpolation: Interpolation = "bilinear"
) -> Array:
    """View (h, w) float32 HU of a slice (H, W) in HU; of several (n, H, W) each in the same way: (n, h, w).

    Raises:
        ValueError: an empty box or view, or an unknown interpolation.
    """
    if image.ndim == 3:
        return np.stack([resample(one, crop, size, interpolation) for one in image])
    if interpolation not in _SUPPORT:
        raise ValueError(f"interpolation {interpolation!r} must be one of {', '.join(_SUPPORT)}")
    if min(crop.height, crop.width) <= 0 or min(size) <= 0:
        raise ValueError(f"box {crop.height} x {crop.width} and view {size} must be larger than 0")
    if crop.rotation_degrees % 360 != 0:
        return resample_affine(image, rotated_box(image.shape, crop, size), size, interpolation)
    pixels = _cut(image, _span(crop.top, crop.height), _span(crop.left, crop.width))
    lines = np.empty((size[0], pixels.shape[1]), np.float32)  # (h, box width)
    for band in _bands(crop.top % 1, crop.height, size[0], interpolation):
        np.matmul(band.weights, pixels[band.start : band.stop], out=lines[band.first : band.last])
    view = np.empty(size, np.float32)
    for band in _bands(crop.left % 1, crop.width, size[1], interpolation):
        np.matmul(lines[:, band.start : band.stop], band.weights.T, out=view[:, band.first : band.last])
    return _flip(view, crop)


@dataclass(frozen=True)
class _Band:
    """View pixels first .. last - 1 are ``weights`` (last - first, stop - start) times box pixels start .. stop - 1."""

    first: int
    last: int
    start: int
    stop: int
    weights: Array


@lru_cache(maxsize=1024)
def _bands(offset: float, length: float, size: int, interpolation: Interpolation) -> tuple[_Band, ...]:
    """Weights that resample ``length`` pixels, beginning ``offset`` into the first, to ``size`` view pixels."""
    count = math.ceil(offset + length)
    step = length / size
    stretch = max(step, 1.0)
    reach = _SUPPORT[interpolation] * stretch
    centres = offset + (np.arange(size) + 0.5) * step
    bands = []
    for first in range(0, size, _BLOCK):
        last = min(first + _BLOCK, size)
        start = max(math.floor(centres[first] - reach), 0)
        stop = min(math.ceil(centres[last - 1] + reach), count)
        distance = np.arange(start, stop)[None] + 0.5 - centres[first:last, None]
        weights = _kernel(distance / stretch, interpolation)
        weights /= weights.sum(1, keepdims=True)  # where the box ends, the pixels inside carry all the weight
        bands.append(_Band(first, last, start, stop, weights.astype(np.float32)))
    return tuple(bands)


def _kernel(distance: npt.NDArray[np.float64], interpolation: str) -> npt.NDArray[np.float64]:
    """Triangle, or Keys' cubic with a = -0.5 (IEEE Trans. ASSP 29, 1981), at distances in pixels."""
    x = np.abs(distance)
    if interpolation == "bilinear":
        return np.asarray(np.maximum(1 - x, 0))
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.asarray(np.where(x < 1, near, np.where(x < 2, far, 0.0)))


def _span(start: float, length: float) -> tuple[int, int]:
    """First pixel that a box touches along one axis, and the one after its last."""
    first = math.floor(start)
    return first, first + math.ceil(start % 1 + length)


def _cut(image: npt.NDArray[np.generic], rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    """Pixels of the slice in a box, float32, air where the slice has none."""
    (top, bottom), (left, right) = rows, columns
    if top >= 0 and left >= 0 and bottom <= image.shape[0] and right <= image.shape[1]:
        return image[top:bottom, left:right].astype(np.float32)
    pixels = np.full((bottom - top, right - left), AIR_HU, np.float32)
    inside = image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    row, column = max(-top, 0), max(-left, 0)
    pixels[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return pixels


def _flip(view: Array, crop: Crop) -> Array:
    turned = view[:: -1 if crop.flip_vertical else 1, :: -1 if crop.flip_horizontal else 1]
    return np.ascontiguousarray(turned)


def rotated_box(shape: tuple[int, ...], crop: Crop, size: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Matrix (3, 3) from view (x, y, 1) to slice (x, y, 1), continuous pixels."""
    down, across = crop.height / size[0], crop.width / size[1]
    box = np.array([[across, 0, crop.left], [0, down, crop.top], [0, 0, 1]])
    if crop.flip_horizontal:
        box = box @ np.array([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1]])
    if crop.flip_vertical:
        box = box @ np.array([[1, 0, 0], [0, -1, size[0]], [0, 0, 1]])
    angle = math.radians(crop.rotation_degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    centre_x, centre_y = shape[1] / 2, shape[0] / 2
    to_centre = np.array([[1, 0, -centre_x], [0, 1, -centre_y], [0, 0, 1]])
    # A screen's y grows downwards: the inverse of a counter-clockwise turn reads (x cos - y sin, x sin + y cos).
    turn = np.array([[cos, -sin, centre_x], [sin, cos, centre_y], [0, 0, 1]])
    return np.asarray(turn @ to_centre @ box)


def resample_affine(
    image: npt.NDArray[np.generic],
    matrix: npt.NDArray[np.float64],
    size: tuple[int, int],
    interpolation: Interpolation = "bilinear",
    prefilter: Literal["kernel", "gaussian"] = "kernel",
) -> Array:
    """View (h, w) float32 HU, read from a slice (H, W) through any affine map.

    Args:
        image: slice in HU; several (n, H, W) are each read in the same way: (n, h, w).
        matrix: (3, 3), from view (x, y, 1) to slice (x, y, 1) in continuous pixels.
        size: (h, w) of the view.
        interpolation: how pixels are read.
        prefilter: against aliasing where the view is coarser than the slice: the interpolation's own kernel,
            stretched, or MONAI's and scikit-image's Gaussian with sigma = (reduction - 1) / 2 pixels.
    """
    if image.ndim == 3:
        return np.stack([resample_affine(one, matrix, size, interpolation, prefilter) for one in image])
    one_thread_in_workers()
    pixels: Array = np.subtract(image, AIR_HU, dtype=np.float32)  # air is 0: so are borders
    reductions = [math.hypot(matrix[axis, 0], matrix[axis, 1]) for axis in (0, 1)]  # along x, y of the slice
    if max(reductions) > 1:
        taps = [_taps(reduction, interpolation, prefilter) for reduction in reductions]
        filtered = cv2.sepFilter2D(pixels, cv2.CV_32F, taps[0], taps[1], borderType=cv2.BORDER_CONSTANT)
        pixels = np.asarray(filtered, np.float32)
    centred = matrix[:2].copy()
    centred[:, 2] += matrix[:2, :2] @ (0.5, 0.5) - 0.5  # pixel centres lie at k + 0.5; OpenCV counts them as k
    flags = (cv2.INTER_LINEAR if interpolation == "bilinear" else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP
    view = cv2.warpAffine(pixels, centred, size[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(view, np.float32) + AIR_HU


def _taps(reduction: float, interpolation: Interpolation, prefilter: str) -> Array:
    """Weights at whole pixels of the filter for one axis; the sum is 1."""
    if reduction <= 1:
        return np.ones(1, np.float32)
    if prefilter == "kernel":
        taps = _kernel_taps(reduction, interpolation)
    else:
        sigma = (reduction - 1) / 2
        reach = int(max(4 * sigma, 0.5) + 0.5)
        edges = (np.arange(-reach, reach + 2) - 0.5) / (math.sqrt(2) * sigma)
        taps = np.diff([math.erf(edge) for edge in edges])  # the Gaussian's integral over each pixel
    return np.asarray(taps / taps.sum(), np.float32)


def _kernel_taps(reduction: float, interpolation: str) -> npt.NDArray[np.float64]:
    reach = math.ceil(_SUPPORT[interpolation] * reduction)
    return _kernel(np.arange(-reach, reach + 1) / reduction, interpolation)


def tap_sum(reduction: float, interpolation: Interpolation) -> float:
    """What the kernel, stretched by ``reduction`` >= 1 and read at whole pixels, must be divided by."""
    return float(_kernel_taps(reduction, interpolation).sum())


@lru_cache(maxsize=1)
def _limit_threads() -> None:
    cv2.setNumThreads(0)


def one_thread_in_workers() -> None:
    """A loader's worker is one of many and its process belongs to the loader; elsewhere the setting is the user's."""
    if torch.utils.data.get_worker_info() is not None:
        _limit_threads()
