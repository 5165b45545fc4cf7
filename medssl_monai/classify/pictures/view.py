"""Views of pictures that are no HU any more (PNG, JPEG, MedMNIST): stretched to a square, normalised, at most mirrored.

Shapes: picture (3, H, W) uint8, view (3, S, S) float32.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl_monai.transforms.draws import chance
from medssl_monai.transforms.samples import item_generator

# Mean and standard deviation that Wolf et al. 2023 used; their brain task took the COVID-19 figures.
COVID_STATISTICS = ((0.5600, 0.5596, 0.5596), (0.2905, 0.2907, 0.2908))
ORGAN_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class ImageViewd:
    """Replaces ``image`` (3, H, W) uint8 by a view (3, S, S): scaled to [0, 1], normalised, stretched to a square.

    Shrinking averages areas. Enlarging interpolates; the reference repeated pixels instead (``as_reference``), and fed
    its COVID-19 and brain networks the transpose of each picture (``transpose``), because MONAI's reader for PNG swaps
    the axes. Both are for comparison with its figures; a network must be judged with the views it was trained on.

    Args:
        image_size: S.
        mean: of the channels, on the scale [0, 1]; one or three.
        std: standard deviation of the channels, on the same scale.
        augment: mirror left and right in half of the views, drawn from (seed, epoch, index).
        seed: of the run.
        as_reference: adaptive average pooling whichever way the size changes.
        transpose: rows for columns.
    """

    def __init__(
        self,
        image_size: int = 224,
        mean: float | Sequence[float] = COVID_STATISTICS[0],
        std: float | Sequence[float] = COVID_STATISTICS[1],
        *,
        augment: bool = False,
        seed: int = 0,
        as_reference: bool = False,
        transpose: bool = False,
    ) -> None:
        self.image_size, self.augment, self.seed = image_size, augment, seed
        self.as_reference, self.transpose = as_reference, transpose
        self.mean, self.std = (torch.tensor(v, dtype=torch.float32).reshape(-1, 1, 1) for v in (mean, std))

    def augmenting(self, augment: bool) -> "ImageViewd":
        """The same views, augmented or not."""
        view = copy.copy(self)
        view.augment = augment
        return view

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Item with a picture -> the same item with its view."""
        return self.drawn(data, self.view(data["image"]))

    @property
    def settings(self) -> tuple[Any, ...]:
        """What decides `view`, comparable."""
        statistics = (tuple(v.flatten().tolist()) for v in (self.mean, self.std))
        return (self.image_size, self.as_reference, self.transpose, *statistics)

    def drawn(self, data: Mapping[str, Any], view: Tensor) -> dict[str, Any]:
        """Item -> the same with its `view`, mirrored if that is drawn for the item."""
        mirrored = self.augment and chance(item_generator(data, self.seed), 0.5)
        return {**data, "image": view.flip(2) if mirrored else view}

    def view(self, picture: Tensor) -> Tensor:
        """Picture (3, H, W) uint8 to view (3, S, S) float32, nothing random."""
        normalised = (picture.float() / 255 - self.mean) / self.std
        if self.transpose:
            normalised = normalised.transpose(1, 2)
        return self._resized(normalised)

    def _resized(self, image: Tensor) -> Tensor:
        size = (self.image_size, self.image_size)
        if self.as_reference:
            return F.adaptive_avg_pool2d(image, size)
        # Bilinear with antialiasing averages over the right area when shrinking, and is plain bilinear when enlarging.
        return F.interpolate(image[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
