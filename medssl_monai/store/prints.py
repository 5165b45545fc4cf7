"""Prints of slices: 256 bits that stay nearly the same when a slice is resized, re-windowed, recompressed or turned.

They are four times as long as the index's perceptual hash, so that a print decides alone, without the pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medssl_monai.store.measures import low_frequencies

BITS = 256
VIEWS_HU = ((-1024.0, 1000.0), (-1350.0, 150.0), (-160.0, 240.0))
"""Windows of a CT slice that a print is made of: the whole range, lung and soft tissue, as pictures of CT have them."""

ORIENTATIONS = 8
_SIDE, _FREQUENCIES = 64, 16

Prints = NDArray[np.uint8]


def slice_prints(pixels: NDArray[np.integer], modality: str = "CT") -> Prints:
    """The prints of a slice as it lies.

    Each view is averaged over areas to 64 x 64 and transformed by the two-dimensional DCT-II. A bit says whether one of
    the 16 x 16 lowest frequencies exceeds their median.

    Args:
        pixels: (H, W), HU for CT.
        modality: ``CT``, or another, whose intensities have no scale.

    Returns:
        (3, 32) uint8, 256 bits for each of `VIEWS_HU`. Other modalities have one view, which is repeated.
    """
    return np.stack([_bits(spectrum) for spectrum in _spectra(pixels, modality)])


def turned_prints(pixels: NDArray[np.integer], modality: str = "CT") -> Prints:
    """The prints of a slice in all eight orientations (quarter turns, mirrored or not): (24, 32) or (8, 32) uint8.

    In the frequencies a mirrored picture has other signs in every second row or column, and a transposed one has rows
    and columns exchanged, so that nothing is resampled. Other modalities than CT have one view, which is not repeated.
    """
    spectra = _spectra(pixels, modality) if modality == "CT" else _spectra(pixels, modality)[:1]
    signs = np.where(np.arange(_FREQUENCIES) % 2, -1.0, 1.0)
    found = []
    for spectrum in spectra:
        for one in (spectrum, spectrum.T):
            for rows in (1.0, signs[:, None]):
                found += [_bits(one * rows * columns) for columns in (1.0, signs)]
    return np.stack(found)


def unpacked(prints: Prints) -> NDArray[np.float32]:
    """(N, 256) of 0 and 1, for `print_distances`."""
    return np.unpackbits(prints, axis=1).astype(np.float32)


def print_distances(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, M) numbers of bits, 0 to 256, in which prints (N, 256) and (M, 256) differ, both `unpacked`."""
    common = first @ second.T  # whole numbers up to 256, exact in float32
    distances: NDArray[np.float32] = first.sum(1)[:, None] + second.sum(1)[None] - 2 * common
    return distances


def _spectra(pixels: NDArray[np.integer], modality: str) -> list[NDArray[np.float64]]:
    height, width = pixels.shape
    rows, columns = (low_frequencies(size, _FREQUENCIES, _SIDE) for size in (height, width))
    views = [np.clip(pixels, *limits) for limits in VIEWS_HU] if modality == "CT" else [pixels]
    found = [rows @ view.astype(np.float64) @ columns.T for view in views]
    return found if modality == "CT" else found * len(VIEWS_HU)


def _bits(spectrum: NDArray[np.float64]) -> Prints:
    values = np.round(spectrum, 3)  # so that other processors' last bits do not decide
    values[0, 0] = 0  # the mean says nothing of the content
    return np.packbits(values > np.median(values))
