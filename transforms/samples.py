"""What every view transform reads from an item and refuses in its arguments."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config.type_definitions import NdarrayOrTensor

from medssl_monai.transforms.draws import sample_generator


def slice_array(image: NdarrayOrTensor, channel_spacing_mm: float = 0.0) -> npt.NDArray[np.generic]:
    """The pixels (H, W) of a slice (1, H, W), without a copy where the memory allows.

    With a spacing of channels those of three slices: (3, H, W), the slice itself in the middle.

    Raises:
        ValueError: another shape.
    """
    if channel_spacing_mm and (image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape):
        raise ValueError(
            f"image of shape {tuple(image.shape)}: channel_spacing_mm {channel_spacing_mm:g} needs a slice between its "
            "neighbours (3, H, W); SliceDataset gives them, with the same channel_spacing_mm"
        )
    if not channel_spacing_mm and (image.ndim != 3 or image.shape[0] != 1 or 0 in image.shape):
        raise ValueError(f"image of shape {tuple(image.shape)}: a slice (1, H, W) is needed")
    pixels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else image
    return np.asarray(pixels if channel_spacing_mm else pixels[0])


def item_generator(data: Mapping[Any, Any], seed: int) -> np.random.Generator:
    """The generator of an item, by its ``index`` and ``epoch`` (0 where it has none).

    Raises:
        ValueError: no ``index``.
    """
    if "index" not in data:
        raise ValueError("item without 'index': draws depend on (seed, epoch, index); SliceDataset gives both")
    return sample_generator(seed, int(data.get("epoch", 0)), int(data["index"]))


def view_size(image_size: int | Sequence[int], multiple: int = 1) -> tuple[int, int]:
    """(h, w) from one number or two.

    Raises:
        ValueError: not positive, or not a multiple.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or any(side < 1 or side % multiple for side in size):
        nearest = [max(multiple, round(side / multiple) * multiple) for side in size]
        raise ValueError(f"image_size {image_size} must be one or two positive multiples of {multiple}; try {nearest}")
    return int(size[0]), int(size[1])


def single_key(keys: Sequence[Hashable]) -> Hashable:
    """The one key of a transform that turns one image into views.

    Raises:
        ValueError: several keys.
    """
    if len(keys) != 1:
        raise ValueError(f"keys {tuple(keys)}: views are made of one image, give one key")
    return keys[0]


def number_range(name: str, limits: Sequence[float], upper: float = float("inf")) -> tuple[float, float]:
    """Checked (low, high), the two ends of a draw.

    Raises:
        ValueError: not two numbers, 0 < low <= high <= upper.
    """
    if len(limits) != 2 or not 0 < limits[0] <= limits[1] <= upper:
        raise ValueError(f"{name} {tuple(limits)} must be two numbers, 0 < low <= high <= {upper}")
    return float(limits[0]), float(limits[1])


def probability(name: str, share: float) -> float:
    """Checked probability.

    Raises:
        ValueError: outside 0 .. 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"{name} {share} must be a probability, 0 .. 1")
    return float(share)
