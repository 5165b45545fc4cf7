"""Views for classification: the whole slice in a square, augmented lightly for training, fixed for evaluation.

Shapes: slice (1, H, W) in HU; view (3, S, S) float32, normalised.

Evaluation is MONAI's own chain: ``Resize`` of the longest side with its Gaussian against aliasing, centred padding with
air, window, (x - mean) / std, so that an inference configuration can say the same with MONAI's transforms alone.
MONAI's Gaussian reads zeros beyond the border; HU are shifted by 1024 meanwhile, so that zero is air.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.data.meta_tensor import MetaTensor
from monai.transforms.croppad.array import ResizeWithPadOrCrop
from monai.transforms.spatial.array import Resize

from medssl_monai.transforms.arguments import takes_arguments_of
from medssl_monai.transforms.draws import chance, log_uniform, uniform
from medssl_monai.transforms.intensity import Intensities, WindowJitter
from medssl_monai.transforms.samples import item_generator, number_range, probability, view_size
from medssl_monai.transforms.spatial import AIR_HU, resample_affine
from medssl_monai.transforms.views import DictionaryViews
from medssl_monai.windows import WindowSpec


@dataclass(frozen=True)
class LabelledParameters:
    """Everything random about one training view; shifts are in sides of the view, down and to the right."""

    scale: float = 1.0
    rotation_degrees: float = 0.0
    shift_rows: float = 0.0
    shift_columns: float = 0.0
    flip_horizontal: bool = False
    jitter: WindowJitter = field(default_factory=WindowJitter)


class LabelledView:
    """The whole slice, its longest side fitted to a square, air around it.

    Args:
        image_size: side S of the view in pixels.
        window: preset, [low, high] in HU, or a list of three of those: a channel each; a single one is repeated.
        mean: of intensities in [0, 1]; one value or three.
        std: standard deviation of intensities in [0, 1]; one value or three.
        scale: factors between which the slice is enlarged.
        rotation_degrees: largest turn, either way.
        shift: largest shift, in sides of the view, either way.
        flip: probability of a left-right flip; 0 by default, because the side of a finding may be its label.
        window_jitter: (level, width) strengths, see ``draw_window_jitter``; None draws none.
        window_fallback: a fixed window for ``tags`` where the image's tags give none.
        channel_spacing_mm: distance of three slices that are the channels of the view, mm; 0 for a slice alone.

    Raises:
        ValueError: an argument out of range, two windows or more than three.
        ConfigError: unknown window, or several with a `channel_spacing_mm`.
    """

    def __init__(
        self,
        image_size: int = 224,
        *,
        window: WindowSpec = "wide",
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
        scale: Sequence[float] = (0.9, 1.1),
        rotation_degrees: float = 10.0,
        shift: float = 0.05,
        flip: float = 0.0,
        window_jitter: Sequence[float] | None = (0.05, 0.1),
        window_fallback: str | Sequence[float] | None = None,
        channel_spacing_mm: float = 0.0,
    ) -> None:
        self.side = view_size(image_size)[0]
        self.intensities = Intensities.of(
            window, window_fallback, window_jitter, mean, std, channels=3, channel_spacing_mm=channel_spacing_mm
        )
        self.scale, self.flip = number_range("scale", scale), probability("flip", flip)
        if rotation_degrees < 0 or shift < 0:
            raise ValueError(f"rotation_degrees {rotation_degrees} and shift {shift} must be at least 0")
        self.rotation_degrees, self.shift = rotation_degrees, shift
        self._resize = Resize(self.side, size_mode="longest", mode="bilinear", anti_aliasing=True)
        self._pad = ResizeWithPadOrCrop((self.side, self.side), value=0)

    def draw(self, rng: np.random.Generator) -> LabelledParameters:
        """Draw the parameters of one training view."""
        return LabelledParameters(
            scale=log_uniform(rng, *self.scale),
            rotation_degrees=uniform(rng, -self.rotation_degrees, self.rotation_degrees),
            shift_rows=uniform(rng, -self.shift, self.shift),
            shift_columns=uniform(rng, -self.shift, self.shift),
            flip_horizontal=chance(rng, self.flip),
            jitter=self.intensities.draw(rng),
        )

    def apply(
        self,
        image: NdarrayOrTensor,
        parameters: LabelledParameters | None = None,
        level: float | None = None,
        width: float | None = None,
    ) -> torch.Tensor:
        """View (3, S, S) float32 of a slice (1, H, W) in HU; without parameters the evaluation view.

        Args:
            image: slice in HU (any unit for the windows ``tags`` and ``minmax``); with a `channel_spacing_mm` three.
            parameters: from `draw`.
            level: the image's own window level, for ``tags``.
            width: the image's own window width, for ``tags``.
        """
        pixels = self.intensities.pixels(image)
        if parameters is None:
            view, jitter = self._fit(pixels), WindowJitter()
        else:
            matrix = self._matrix(pixels.shape[-2:], parameters)
            view = resample_affine(pixels, matrix, (self.side, self.side), prefilter="gaussian")
            jitter = parameters.jitter
        limits = self.intensities.limits(pixels, level, width)
        return torch.from_numpy(self.intensities.apply(view, limits, jitter))

    def _fit(self, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Slice (H, W) -> (S, S), or slices (3, H, W) -> (3, S, S), by MONAI's own transforms."""
        above_air = torch.from_numpy(pixels.astype(np.float32) - AIR_HU)
        view = self._pad(self._resize(above_air if pixels.ndim == 3 else above_air[None]))
        view = view if pixels.ndim == 3 else view[0]
        view = view.as_tensor() if isinstance(view, MetaTensor) else view
        return np.asarray(view.numpy() + np.float32(AIR_HU), np.float32)

    def _matrix(self, shape: tuple[int, ...], parameters: LabelledParameters) -> npt.NDArray[np.float64]:
        """(3, 3) from view (x, y, 1) to slice (x, y, 1), continuous pixels; with no parameters the same as ``_fit``."""
        side, (height, width) = self.side, shape
        fitted = [round(length * side / max(shape)) for length in (height, width)]
        top, left = (side - fitted[0]) // 2, (side - fitted[1]) // 2
        across, down = width / fitted[1], height / fitted[0]
        to_slice = np.array([[across, 0, -left * across], [0, down, -top * down], [0, 0, 1]])
        angle = math.radians(parameters.rotation_degrees)
        cos, sin = math.cos(angle) / parameters.scale, math.sin(angle) / parameters.scale
        half = side / 2
        turn = np.array([[cos, -sin, half], [sin, cos, half], [0, 0, 1]])
        moved = half + np.array([parameters.shift_columns, parameters.shift_rows]) * side
        to_centre = np.array([[1, 0, -moved[0]], [0, 1, -moved[1]], [0, 0, 1]])
        mirror = np.diag([-1.0 if parameters.flip_horizontal else 1.0, 1, 1])
        mirror[0, 2] = side if parameters.flip_horizontal else 0
        return np.asarray(to_slice @ turn @ to_centre @ mirror)


@takes_arguments_of(LabelledView)
class LabelledViewd(DictionaryViews):
    """Dictionary form of `LabelledView`: replaces the image and keeps every other entry, ``label`` among them.

    Args:
        keys: the image's key.
        seed: of the run; the draws depend on (seed, epoch, index) alone.
        augment: training views; False gives the evaluation view, which needs no ``index``.
        view: every argument of `LabelledView`, by keyword.

    Raises:
        ConfigError: an argument that there is not.
        ValueError: at call, for an item without ``index`` when augmenting, or an image that is not (1, H, W).
        NotHounsfieldError: at call, for a window in HU on an item with a ``modality`` other than CT.
    """

    def __init__(self, keys: KeysCollection = "image", *, seed: int = 0, augment: bool = True, **view: Any) -> None:
        super().__init__(keys, seed, False, LabelledView(**view))
        self.augment = augment

    def draw(self, data: Mapping[Any, Any]) -> LabelledParameters | None:
        """The parameters of a training view; None for the evaluation view."""
        self.transform.intensities.require_hounsfield(data)
        return self.transform.draw(item_generator(data, self.seed)) if self.augment else None

    def entries(self, made: torch.Tensor) -> dict[Any, Any]:
        """The view takes the image's place."""
        return {self.key: made}
