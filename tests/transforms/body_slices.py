"""A slice that looks like CT to a resampler: smooth tissue, sharp edges, noise."""

import math

import numpy as np
import numpy.typing as npt


def body_slice(height: int = 512, width: int = 512, seed: int = 0) -> npt.NDArray[np.int16]:
    """(H, W) int16 HU: an ellipse of soft tissue in air, twenty discs from air to bone, noise of 20 HU."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    body = ((y - height / 2) / (0.35 * height)) ** 2 + ((x - width / 2) / (0.45 * width)) ** 2 < 1
    image = np.where(body, 40.0, -1000.0)
    side = float(min(height, width))
    for _ in range(20):
        row, column, radius = rng.uniform(0.25, 0.75) * height, rng.uniform(0.25, 0.75) * width, rng.uniform(0.01, 0.08)
        image[(y - row) ** 2 + (x - column) ** 2 < (radius * side) ** 2] = rng.uniform(-900, 1200)
    return (image + rng.normal(0, 20, image.shape)).astype(np.int16)


def psnr_db(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Peak signal-to-noise ratio over the 4095 HU of a 12-bit scanner."""
    error = np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)
    return 10 * math.log10(4095**2 / max(float(error), 1e-12))
