"""Several crops of a slice, large and small, as SwAV compares them.

Shapes: slice (1, H, W) in HU; views a list of (channels, h, w) float32, in the order of ``sizes``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.transforms.traits import RandomizableTrait
from monai.transforms.transform import MapTransform

from medssl_monai.transforms.ct_window import require_hounsfield
from medssl_monai.transforms.recipe import ViewParameters, ViewRecipe
from medssl_monai.transforms.samples import item_generator, number_range, single_key, slice_array, view_size
from medssl_monai.transforms.spatial import Interpolation
from medssl_monai.windows import WindowSpec

MultiCropParameters: TypeAlias = tuple[ViewParameters, ...]


class MultiCropViews:
    """Crops of several sizes (Caron et al. 2020, arXiv 2006.09882, section 3.2 and appendix A.1).

    Args:
        counts: how many views of each size, the large ones first.
        sizes: side, or (h, w), of each in pixels.
        scales: share of the slice's area that each covers.
        recipe: what else happens to a view.

    Raises:
        ValueError: lists of different lengths, or a count, size or share out of range.
    """

    def __init__(
        self,
        counts: Sequence[int] = (2, 6),
        sizes: Sequence[int | Sequence[int]] = (224, 96),
        scales: Sequence[Sequence[float]] = ((0.14, 1.0), (0.05, 0.14)),
        *,
        recipe: ViewRecipe | None = None,
    ) -> None:
        if not 0 < len(counts) == len(sizes) == len(scales):
            raise ValueError(
                f"counts {list(counts)}, sizes {list(sizes)} and scales {list(scales)} must be lists of one length"
            )
        if min(counts) < 1:
            raise ValueError(f"counts {list(counts)} must be at least 1 each; leave out a size that is not wanted")
        self.recipe = recipe or ViewRecipe()
        self.crops = [  # (size, scale) of each view
            (view_size(size), number_range("scales", scale, upper=1.0))
            for count, size, scale in zip(counts, sizes, scales, strict=True)
            for _ in range(count)
        ]

    def draw(self, rng: np.random.Generator, height: int, width: int) -> MultiCropParameters:
        """Draw the parameters of all views of a slice of ``height`` x ``width`` pixels."""
        return tuple(self.recipe.draw(rng, height, width, scale) for _, scale in self.crops)

    def apply(
        self,
        image: NdarrayOrTensor,
        parameters: MultiCropParameters,
        level: float | None = None,
        width: float | None = None,
    ) -> list[torch.Tensor]:
        """Views (channels, h, w) float32 of a slice (1, H, W) in HU.

        Args:
            image: slice in HU (any unit for the windows ``tags`` and ``minmax``).
            parameters: from `draw`.
            level: the image's own window level, for ``tags``.
            width: the image's own window width, for ``tags``.
        """
        pixels = slice_array(image)
        limits = self.recipe.limits(pixels, level, width)
        return [
            torch.from_numpy(self.recipe.apply(pixels, view, size, limits))
            for view, (size, _) in zip(parameters, self.crops, strict=True)
        ]


class MultiCropViewsd(MapTransform, RandomizableTrait):
    """Dictionary form of `MultiCropViews`; the defaults are SwAV's, fitted to CT.

    Reads the image, ``index`` and ``epoch``; writes ``views``; drops the image unless ``keep_image``. The draws depend
    on (seed, epoch, index) alone. For the arguments see `MultiCropViews` and `ViewRecipe`.

    Raises:
        ValueError: at call, for an item without ``index`` or an image that is not (1, H, W).
        NotHounsfieldError: at call, for a window in HU on an item whose ``modality`` is not CT.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        *,
        seed: int,
        counts: Sequence[int] = (2, 6),
        sizes: Sequence[int | Sequence[int]] = (224, 96),
        scales: Sequence[Sequence[float]] = ((0.14, 1.0), (0.05, 0.14)),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        rotation: float = 0.0,
        rotation_degrees: float = 180.0,
        flip_horizontal: float = 0.5,
        flip_vertical: float = 0.0,
        window: WindowSpec = "wide",
        window_fallback: str | Sequence[float] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        jitter: float = 0.8,
        window_jitter: Sequence[float] | None = (0.1, 0.4),
        photometric_jitter: Sequence[float] | None = None,
        grey: float = 0.0,
        blur: float = 0.5,
        blur_sigma: Sequence[float] = (0.1, 2.0),
        noise: float = 0.5,
        noise_variance: Sequence[float] = (1e-5, 1e-4),
        keep_image: bool = False,
    ) -> None:
        super().__init__(keys)
        self.key, self.seed, self.keep_image = single_key(self.keys), seed, keep_image
        recipe = ViewRecipe(
            ratio=ratio,
            interpolation=interpolation,
            rotation=rotation,
            rotation_degrees=rotation_degrees,
            flip_horizontal=flip_horizontal,
            flip_vertical=flip_vertical,
            window=window,
            window_fallback=window_fallback,
            mean=mean,
            std=std,
            jitter=jitter,
            window_jitter=window_jitter,
            photometric_jitter=photometric_jitter,
            grey=grey,
            blur=blur,
            blur_sigma=blur_sigma,
            noise=noise,
            noise_variance=noise_variance,
        )
        self.transform = MultiCropViews(counts, sizes, scales, recipe=recipe)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Item with ``image`` (1, H, W) in HU, ``index``, ``epoch`` -> item with ``views``."""
        require_hounsfield(data, self.transform.recipe.windows, self.transform.recipe.fallback)
        item = dict(data)
        image = item[self.key] if self.keep_image else item.pop(self.key)
        height, width = slice_array(image).shape
        parameters = self.transform.draw(item_generator(data, self.seed), height, width)
        item["views"] = self.transform.apply(image, parameters, data.get("window_level"), data.get("window_width"))
        return item
