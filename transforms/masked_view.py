"""One view and its mask, as SparK trains.

Shapes: slice (1, H, W) in HU; view (channels, h, w) float32, normalised; mask (1, h/32, w/32) bool, True = visible.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor

from medssl_monai.transforms.arguments import takes_arguments_of
from medssl_monai.transforms.draws import chance, subset, visible_cells
from medssl_monai.transforms.intensity import Intensities, WindowJitter
from medssl_monai.transforms.photometric import NoiseParameters, PhotometricJitter
from medssl_monai.transforms.recipe import ViewParameters
from medssl_monai.transforms.samples import number_range, probability, view_size
from medssl_monai.transforms.spatial import Crop, Interpolation, draw_resized_crop, resample
from medssl_monai.transforms.views import DictionaryViews
from medssl_monai.windows import WindowSpec


@dataclass(frozen=True)
class SparKParameters:
    """Everything random about one SparK view; ``visible`` numbers the mask's visible cells row by row."""

    crop: Crop
    jitter: WindowJitter
    visible: tuple[int, ...]

    @property
    def view(self) -> ViewParameters:
        """What the view takes, in the words of contrastive recipes."""
        return ViewParameters(self.crop, self.jitter, PhotometricJitter(), False, 0.0, NoiseParameters())


class SparKViews:
    """One view and its mask, as SparK trains (Tian et al., ICLR 2023, arXiv 2301.03580, section 3.1 and appendix).

    Args:
        image_size: side, or (h, w), of the view in pixels; multiples of ``patch_size``.
        scale: share of the slice's area that the crop covers.
        ratio: width to height of the crop.
        flip: probability of a left-right flip.
        interpolation: ``bicubic`` in the paper.
        window: preset, [low, high] in HU, or a list of those: a channel each.
        window_jitter: (level, width) strengths, see ``draw_window_jitter``; None draws none.
        window_fallback: a fixed window for ``tags`` where the image's tags give none.
        mean: of intensities in [0, 1]; one value, or one a channel (three values repeat a single window).
        std: standard deviation of intensities in [0, 1]; one value, or one a channel.
        mask_ratio: share of the cells that is masked.
        patch_size: side of a cell, a multiple of the encoder's stride 32.
        channel_spacing_mm: distance of three slices that are the channels of a view, mm; 0 for a slice alone.

    Raises:
        ValueError: sizes, shares or probabilities out of range; a mask with no visible or no masked cell.
        ConfigError: unknown window, or several with a `channel_spacing_mm`.
    """

    def __init__(
        self,
        image_size: int | Sequence[int] = 224,
        *,
        scale: Sequence[float] = (0.67, 1.0),
        ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.5,
        interpolation: Interpolation = "bicubic",
        window: WindowSpec = "wide",
        window_jitter: Sequence[float] | None = None,
        window_fallback: str | Sequence[float] | None = None,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        mask_ratio: float = 0.6,
        patch_size: int = 32,
        channel_spacing_mm: float = 0.0,
    ) -> None:
        if patch_size < 32 or patch_size % 32:
            raise ValueError(f"patch_size {patch_size} must be a multiple of 32, the encoder's stride; try 32")
        self.size = view_size(image_size, patch_size)
        self.grid = (self.size[0] // patch_size, self.size[1] // patch_size)
        self.visible = visible_cells(self.grid[0] * self.grid[1], mask_ratio)
        self.scale, self.ratio = number_range("scale", scale, upper=1.0), number_range("ratio", ratio)
        self.flip = probability("flip", flip)
        self.interpolation: Interpolation = interpolation
        self.intensities = Intensities.of(
            window, window_fallback, window_jitter, mean, std, channel_spacing_mm=channel_spacing_mm
        )

    def draw(self, rng: np.random.Generator, height: int, width: int) -> SparKParameters:
        """Draw the parameters of one view of a slice of ``height`` x ``width`` pixels."""
        box = draw_resized_crop(rng, height, width, self.scale, self.ratio)
        flipped = chance(rng, self.flip)
        jitter = self.intensities.draw(rng)
        visible = subset(rng, self.grid[0] * self.grid[1], self.visible)
        return SparKParameters(Crop(*box, flip_horizontal=flipped), jitter, visible)

    def apply(
        self,
        image: NdarrayOrTensor,
        parameters: SparKParameters,
        level: float | None = None,
        width: float | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """View (channels, h, w) float32 and mask (1, h/32, w/32) bool of a slice (1, H, W) in HU.

        Args:
            image: slice in HU (any unit for the windows ``tags`` and ``minmax``); with a `channel_spacing_mm` three.
            parameters: from `draw`.
            level: the image's own window level, for ``tags``.
            width: the image's own window width, for ``tags``.
        """
        pixels = self.intensities.pixels(image)
        view = resample(pixels, parameters.crop, self.size, self.interpolation)
        limits = self.intensities.limits(pixels, level, width)
        return torch.from_numpy(self.intensities.apply(view, limits, parameters.jitter)), self.mask(parameters)

    def mask(self, parameters: SparKParameters) -> torch.Tensor:
        """Mask (1, h/32, w/32) bool."""
        mask = torch.zeros(self.grid[0] * self.grid[1], dtype=torch.bool)
        mask[list(parameters.visible)] = True
        return mask.reshape(1, *self.grid)


@takes_arguments_of(SparKViews)
class SparKViewsd(DictionaryViews):
    """Dictionary form of `SparKViews`.

    Reads the image, ``index`` and ``epoch``; writes ``views`` (a list of one view) and ``mask``; drops the image unless
    ``keep_image``. The draws depend on (seed, epoch, index) alone.

    Args:
        keys: the image's key.
        seed: of the run.
        keep_image: whether the image stays in the item.
        views: every argument of `SparKViews`, by keyword.

    Raises:
        ConfigError: an argument that there is not.
        ValueError: at call, for an item without ``index`` or an image that is not (1, H, W).
        NotHounsfieldError: at call, for a window in HU on an item with a ``modality`` other than CT.
    """

    def __init__(self, keys: KeysCollection = "image", *, seed: int, keep_image: bool = False, **views: Any) -> None:
        super().__init__(keys, seed, keep_image, SparKViews(**views))

    def entries(self, made: tuple[torch.Tensor, torch.Tensor]) -> dict[str, Any]:
        """One view and its mask."""
        return {"views": [made[0]], "mask": made[1]}
