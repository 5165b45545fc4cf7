"""Views made on the device, a batch at a time: drawn by the loader's workers, applied where the network lies.

For the same (seed, epoch, index) they are the views that the transform itself makes on the CPU, up to rounding.
Shapes: slice (1, H, W) in HU, or with its neighbours (3, H, W); B slices; view (B, channels, h, w) float32; mask
(B, 1, h/32, w/32) bool.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from medssl_monai.errors import ConfigError
from medssl_monai.transforms.batched import apply_plan
from medssl_monai.transforms.intensity import Limits
from medssl_monai.transforms.masked_view import SparKParameters, SparKViews, SparKViewsd
from medssl_monai.transforms.multi_crop import MultiCropParameters, MultiCropViewsd, TwoViewsd
from medssl_monai.transforms.recipe import ViewRecipe
from medssl_monai.transforms.spatial import AIR_HU
from medssl_monai.transforms.view_plan import plan_views
from medssl_monai.transforms.views import PARTNER_SLICE

Item: TypeAlias = dict[Any, Any]

MADE_ON_DEVICE = (MultiCropViewsd, TwoViewsd, SparKViewsd)
"""The transforms with views that can be made on a device."""


class DeviceViews:
    """The two halves of a view transform: `draw` and `collate` in the loader, `apply` on the device.

    Args:
        transform: ``SparKViewsd``, ``TwoViewsd`` or ``MultiCropViewsd``.

    Raises:
        ConfigError: another transform; its views can only be made on the CPU.
    """

    def __init__(self, transform: Any) -> None:
        if not isinstance(transform, MADE_ON_DEVICE):
            raise ConfigError(
                f"views_on_device: made by SparKViewsd, TwoViewsd and MultiCropViewsd, found "
                f"{type(transform).__name__}; set views_on_device to false"
            )
        self.source = transform
        self.recipe: ViewRecipe | SparKViews
        if isinstance(transform, SparKViewsd):
            self.recipe, self.sizes = transform.transform, [transform.transform.size]
        else:
            self.recipe, self.sizes = transform.transform.recipe, [size for size, _ in transform.transform.crops]

    def draw(self, data: Mapping[Any, Any]) -> Item:
        """Item with ``image``, ``index``, ``epoch`` -> the item with ``images``, ``drawn`` and, for SparK, ``mask``.

        The images are its own and its partner's, where it has one.

        Raises:
            ValueError: an item without ``index`` or an image that is not (1, H, W).
            NotHounsfieldError: a window in HU on an item with a ``modality`` other than CT.
        """
        measured = [self.measure(one) for one in self.source.slices(data)]
        rest = {name: value for name, value in data.items() if name not in (self.source.key, PARTNER_SLICE)}
        drawn = self.draw_for(rest, *((pixels.shape[-2:], limits) for pixels, limits in measured))
        return {**drawn, "images": [pixels for pixels, _ in measured]}

    def measure(self, data: Mapping[Any, Any]) -> tuple[np.ndarray[Any, Any], Limits]:
        """Pixels ([3,] H, W) of an item and the limits of its windows, which no draw changes; raises as `draw`."""
        self.recipe.intensities.require_hounsfield(data)
        pixels = self.recipe.intensities.pixels(data[self.source.key])
        return pixels, self.recipe.intensities.limits(pixels, data.get("window_level"), data.get("window_width"))

    def draw_for(self, data: Mapping[Any, Any], *measured: tuple[tuple[int, ...], Limits]) -> Item:
        """As `draw`, of an item without its image, of which shape (H, W) and limits are known; so of its partner."""
        shapes, limits = zip(*measured, strict=True)
        item, drawn = dict(data), self.source.draw_for(data, *shapes)
        views: MultiCropParameters = drawn
        if isinstance(drawn, SparKParameters):
            views, item["mask"] = (drawn.view,), self.source.transform.mask(drawn)
        return {**item, "drawn": (views, shapes, limits)}

    def collate(self, items: Sequence[Item]) -> Item:
        """A batch of drawn items: ``plans``, one a view, and, of items with images, ``slices``.

        The slices, a list of one (B, H, W) or, with partners, of two, are padded with air to the largest; with their
        neighbours they are (B, 3, H, W).
        """
        parameters, shapes, limits = zip(*(item["drawn"] for item in items), strict=True)
        batch: Item = default_collate(
            [{k: v for k, v in item.items() if k not in ("images", "drawn")} for item in items]
        )
        shown = list(zip(zip(*shapes, strict=True), zip(*limits, strict=True), strict=True))  # the slices, the partners
        batch["plans"] = [
            plan_views(
                [views[number] for views in parameters], *shown[number % len(shown)], size, self.recipe.interpolation
            )
            for number, size in enumerate(self.sizes)
        ]
        if "images" in items[0]:
            batch["slices"] = [_padded(images) for images in zip(*(item["images"] for item in items), strict=True)]
        return batch

    def apply(self, batch: Mapping[str, Any], device: str | torch.device) -> Item:
        """A collated batch -> the batch with ``views`` on the device, without ``slices`` and ``plans``."""
        slices = [one.to(device, non_blocking=True).float() for one in batch["slices"]]
        views: list[Tensor] = []
        for number, (plan, size) in enumerate(zip(batch["plans"], self.sizes, strict=True)):
            there = {name: value.to(device, non_blocking=True) for name, value in plan.items()}
            shown = slices[number % len(slices)]
            views.append(apply_plan(shown, there, size, self.recipe.interpolation, self.recipe.intensities.norm))
        return {**{k: v for k, v in batch.items() if k not in ("slices", "plans")}, "views": views}


def _padded(pixels: Sequence[np.ndarray[Any, Any]]) -> Tensor:
    """(B, H, W) or (B, 3, H, W) of the slices' type, the smaller ones with air below and to the right."""
    height, width = (max(p.shape[axis] for p in pixels) for axis in (-2, -1))
    shape = (len(pixels), *pixels[0].shape[:-2], height, width)
    out = torch.from_numpy(np.full(shape, AIR_HU, pixels[0].dtype))
    for row, p in zip(out, pixels, strict=True):
        row[..., : p.shape[-2], : p.shape[-1]] = torch.from_numpy(p)
    return out
