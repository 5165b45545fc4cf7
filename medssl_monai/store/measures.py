"""What the index says of a slice's content: how much of it is body, and what it looks like."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

BODY_HU = -300
"""Above lung and air, below fat."""

_HASH_SIDE, _COARSE_SIDE = 8, 32


def body_fraction(pixels: NDArray[np.int16], modality: str) -> float:
    """The share of pixels that show the body, in [0, 1].

    CT: above -300 HU. Other modalities have no scale: above a tenth of the way from the lowest value to the 99th
    percentile.
    """
    if modality == "CT":
        return np.count_nonzero(pixels > BODY_HU) / pixels.size
    lowest = float(pixels.min())
    body = pixels > lowest + 0.1 * (float(np.percentile(pixels, 99)) - lowest)
    return np.count_nonzero(body) / pixels.size


def perceptual_hash(pixels: NDArray[np.int16], modality: str = "CT") -> str:
    """64 bits, 16 hex digits, that change little when the picture changes little.

    The image (CT: clipped to -1024..3071 HU) is averaged over areas to 32 x 32 and transformed by the two-dimensional
    DCT-II (Ahmed, Natarajan, Rao 1974). A bit says whether one of the 8 x 8 lowest frequencies exceeds their median,
    row by row, most significant first. So the hash ignores brightness, contrast, and how finely the image is sampled.
    """
    height, width = pixels.shape
    image = np.clip(pixels, -1024, 3071) if modality == "CT" else pixels
    if height % _COARSE_SIDE == 0 and width % _COARSE_SIDE == 0:
        # The same in whole numbers: exact, and several times as fast.
        sums = image.reshape(_COARSE_SIDE, -1, width).sum(axis=1, dtype=np.int32)
        sums = sums.reshape(_COARSE_SIDE, _COARSE_SIDE, -1).sum(axis=2)
        coarse = sums * (_COARSE_SIDE**2 / (height * width))
        spectrum = _cosines() @ coarse @ _cosines().T
    else:
        spectrum = low_frequencies(height) @ image.astype(np.float64) @ low_frequencies(width).T
    # Rounded, so that flat images and other processors' last bits do not decide anything.
    spectrum = np.round(spectrum, 3)
    spectrum[0, 0] = 0  # the mean says nothing of the content
    ranked = np.sort(spectrum, axis=None)
    middle = len(ranked) // 2
    bits = (spectrum > (ranked[middle - 1] + ranked[middle]) / 2).reshape(-1)  # the median, in a tenth of its time
    return np.packbits(bits).tobytes().hex()


def hamming_distance(first: str, second: str) -> int:
    """In how many of the 64 bits two hashes differ; copies differ in none, near-duplicates in a few."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


@lru_cache(maxsize=32)
def low_frequencies(size: int, kept: int = _HASH_SIDE, side: int = _COARSE_SIDE) -> NDArray[np.float64]:
    """(kept, size): averages over areas to `side` samples, then the first `kept` rows of the DCT-II."""
    edges = np.linspace(0, size, side + 1)
    samples = np.arange(size)
    overlap = np.minimum(edges[1:, None], samples + 1) - np.maximum(edges[:-1, None], samples)
    area = np.clip(overlap, 0, None) * (side / size)
    return np.asarray(_cosines(kept, side) @ area)


@lru_cache(maxsize=4)
def _cosines(kept: int = _HASH_SIDE, side: int = _COARSE_SIDE) -> NDArray[np.float64]:
    """(kept, side): the first rows of the DCT-II."""
    frequencies, positions = np.arange(kept)[:, None], np.arange(side)[None, :]
    return np.asarray(np.cos(np.pi * frequencies * (2 * positions + 1) / (2 * side)))
