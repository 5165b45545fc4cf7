"""Several views of a slice: crops large and small, as SwAV compares them, or two, as MoCo v2 and BYOL do.

Shapes: slice (1, H, W) in HU; views a list of (channels, h, w) float32, in the order of ``sizes``.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor

from medssl_monai.transforms.arguments import takes_arguments_of
from medssl_monai.transforms.recipe import ViewParameters, ViewRecipe
from medssl_monai.transforms.samples import number_range, view_size
from medssl_monai.transforms.views import DictionaryViews

MultiCropParameters: TypeAlias = tuple[ViewParameters, ...]


@takes_arguments_of(ViewRecipe)
class MultiCropViews:
    """Crops of several sizes (Caron et al. 2020, arXiv 2006.09882, section 3.2 and appendix A.1).

    Args:
        counts: how many views of each size, the large ones first.
        sizes: side, or (h, w), of each in pixels.
        scales: share of the slice's area that each covers.
        recipe: every argument of `ViewRecipe`, by keyword.

    Raises:
        ConfigError: an argument that there is not, or an unknown window.
        ValueError: lists of different lengths, or an argument out of range.
    """

    def __init__(
        self,
        counts: Sequence[int] = (2, 6),
        sizes: Sequence[int | Sequence[int]] = (224, 96),
        scales: Sequence[Sequence[float]] = ((0.14, 1.0), (0.05, 0.14)),
        **recipe: Any,
    ) -> None:
        if not 0 < len(counts) == len(sizes) == len(scales):
            raise ValueError(
                f"counts {list(counts)}, sizes {list(sizes)} and scales {list(scales)} must be lists of one length"
            )
        if min(counts) < 1:
            raise ValueError(f"counts {list(counts)} must be at least 1 each; leave out a size that is not wanted")
        self.recipe = ViewRecipe(**recipe)
        self.intensities = self.recipe.intensities
        self.crops = [  # (size, scale) of each view
            (view_size(size), number_range("scales", scale, upper=1.0))
            for count, size, scale in zip(counts, sizes, scales, strict=True)
            for _ in range(count)
        ]

    def draw(
        self, rng: np.random.Generator, height: int, width: int, partner: tuple[int, int] | None = None
    ) -> MultiCropParameters:
        """Draw the parameters of all views of a slice of ``height`` x ``width`` pixels, and of its partner's shape."""
        shapes = [(height, width), partner or (height, width)]
        return tuple(self.recipe.draw(rng, *shapes[number % 2], scale) for number, (_, scale) in enumerate(self.crops))

    def apply(
        self,
        image: NdarrayOrTensor,
        parameters: MultiCropParameters,
        level: float | None = None,
        width: float | None = None,
        partner: tuple[NdarrayOrTensor, float | None, float | None] | None = None,
    ) -> list[torch.Tensor]:
        """Views (channels, h, w) float32 of a slice (1, H, W) in HU.

        Args:
            image: slice in HU (any unit for the windows ``tags`` and ``minmax``); with a `channel_spacing_mm` three.
            parameters: from `draw`.
            level: the image's own window level, for ``tags``.
            width: the image's own window width, for ``tags``.
            partner: image, level and width of the slice that every second view shows; None: of the same.
        """
        shown = [(image, level, width)] if partner is None else [(image, level, width), partner]
        arrays = [self.intensities.pixels(one) for one, _, _ in shown]
        slices = [(a, self.intensities.limits(a, *own)) for a, (_, *own) in zip(arrays, shown, strict=True)]
        views = []
        for number, (view, (size, _)) in enumerate(zip(parameters, self.crops, strict=True)):
            pixels, limits = slices[number % len(slices)]
            views.append(torch.from_numpy(self.recipe.apply(pixels, view, size, limits)))
        return views


@takes_arguments_of(ViewRecipe, rotation=0.5, flip_vertical=0.5, jitter=1.0)
class TwoViews(MultiCropViews):
    """Two views of one recipe: MoCo v2's (Chen et al. 2020, arXiv 2003.04297) with turns, flips and noise for CT.

    Args:
        image_size: side, or (h, w), of the views in pixels.
        scale: share of the slice's area that a view covers.
        recipe: every argument of `ViewRecipe`, by keyword; by default ``rotation`` and ``flip_vertical`` are 0.5 and
            ``jitter`` is 1.

    Raises:
        ConfigError: an argument that there is not, or an unknown window.
        ValueError: an argument out of range.

    Example:
        >>> views = TwoViews(64, window="lung", mean=0.25, std=0.25)
        >>> parameters = views.draw(sample_generator(seed=0, epoch=0, index=7), 512, 512)
        >>> [tuple(view.shape) for view in views.apply(torch.zeros(1, 512, 512), parameters)]
        [(1, 64, 64), (1, 64, 64)]
    """

    def __init__(
        self, image_size: int | Sequence[int] = 224, *, scale: Sequence[float] = (0.2, 1.0), **recipe: Any
    ) -> None:
        super().__init__((2,), (image_size,), (scale,), **recipe)


@takes_arguments_of(MultiCropViews)
class MultiCropViewsd(DictionaryViews):
    """Dictionary form of `MultiCropViews`; the defaults are SwAV's, fitted to CT.

    Reads the image, ``index`` and ``epoch``; writes ``views``; drops the image unless ``keep_image``. The draws depend
    on (seed, epoch, index) alone. If the item has a ``partner_slice``, every second view shows it: of two large and six
    small crops, the second large one and three small ones.

    Args:
        keys: the image's key.
        seed: of the run.
        keep_image: whether the image stays in the item.
        views: every argument of `MultiCropViews`, by keyword.

    Raises:
        ConfigError: an argument that there is not.
        ValueError: at call, for an item without ``index`` or an image that is not (1, H, W).
        NotHounsfieldError: at call, for a window in HU on an item with a ``modality`` other than CT.
    """

    takes_partners = True

    def __init__(self, keys: KeysCollection = "image", *, seed: int, keep_image: bool = False, **views: Any) -> None:
        super().__init__(keys, seed, keep_image, MultiCropViews(**views))


@takes_arguments_of(TwoViews)
class TwoViewsd(DictionaryViews):
    """Dictionary form of `TwoViews`, otherwise as `MultiCropViewsd`.

    Args:
        keys: the image's key.
        seed: of the run.
        keep_image: whether the image stays in the item.
        views: every argument of `TwoViews`, by keyword.
    """

    takes_partners = True

    def __init__(self, keys: KeysCollection = "image", *, seed: int, keep_image: bool = False, **views: Any) -> None:
        super().__init__(keys, seed, keep_image, TwoViews(**views))
