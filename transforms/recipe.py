"""What happens to one view of a contrastive method: geometry, intensities, blur and noise.

Shapes: slice (H, W) in HU, or with its neighbours (3, H, W); view (channels, h, w) float32, normalised.
Order: turn, crop and flip in one antialiased resampling; window, clipped to [0, 1]; brightness and contrast; grey;
blur; noise; (x - mean) / std.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medssl_monai.transforms.draws import chance, log_uniform, uniform
from medssl_monai.transforms.intensity import Intensities, Limits, WindowJitter, normalised, unit_range
from medssl_monai.transforms.photometric import (
    NoiseParameters,
    PhotometricJitter,
    blurred,
    draw_noise_seed,
    draw_photometric_jitter,
    grey,
    jittered,
    noisy,
)
from medssl_monai.transforms.samples import number_range, probability
from medssl_monai.transforms.spatial import Crop, Interpolation, draw_resized_crop, resample
from medssl_monai.windows import WindowSpec


@dataclass(frozen=True)
class ViewParameters:
    """Everything random about one view; a blur of 0 and a noise of variance 0 are none."""

    crop: Crop
    window_jitter: WindowJitter
    photometric_jitter: PhotometricJitter
    grey: bool
    blur_sigma: float  # pixels of the view
    noise: NoiseParameters


class ViewRecipe:
    """How views of any size are drawn and made.

    Args:
        ratio: width to height of the crop.
        interpolation: ``bilinear`` or ``bicubic``.
        rotation: probability of a turn about the slice's centre; air comes in at the corners.
        rotation_degrees: largest turn, either way.
        flip_horizontal: probability of a left-right flip.
        flip_vertical: probability of a front-back flip.
        window: preset, [low, high] in HU, or a list of those: a channel each.
        window_fallback: a fixed window for ``tags`` where the image's tags give none.
        mean: of intensities in [0, 1]; one value, or one a channel (three values repeat a single window).
        std: standard deviation of intensities in [0, 1]; one value, or one a channel.
        jitter: probability of the jitters below, of both together.
        window_jitter: (level, width) strengths, see ``draw_window_jitter``; it acts in HU, before clipping. None: none.
        photometric_jitter: (brightness, contrast) strengths on [0, 1], as torchvision's ColorJitter. None: none.
        grey: probability that three windows become their luma; without effect on a single window.
        blur: probability of a Gaussian blur.
        blur_sigma: its standard deviation, from, to, in pixels of the view.
        noise: probability of Gaussian noise on [0, 1].
        noise_variance: its variance, from, to, log-uniform.
        channel_spacing_mm: distance of three slices that are the channels of a view, mm; 0 for a slice alone. All three
            get the same crop, turn, flips, window, jitter, blur and noise.

    Raises:
        ValueError: a probability, strength or range out of bounds; ``grey`` with other than one or three windows.
        ConfigError: unknown window, or several with a `channel_spacing_mm`.
    """

    def __init__(
        self,
        *,
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
        channel_spacing_mm: float = 0.0,
    ) -> None:
        self.ratio = number_range("ratio", ratio)
        if interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"interpolation {interpolation!r} must be bilinear or bicubic")
        self.interpolation: Interpolation = interpolation
        self.rotation = probability("rotation", rotation)
        if not 0 <= rotation_degrees <= 180:
            raise ValueError(f"rotation_degrees {rotation_degrees} must lie in 0 .. 180: it is drawn either way")
        self.rotation_degrees = float(rotation_degrees)
        self.flip_horizontal = probability("flip_horizontal", flip_horizontal)
        self.flip_vertical = probability("flip_vertical", flip_vertical)
        self.intensities = Intensities.of(
            window, window_fallback, window_jitter, mean, std, channel_spacing_mm=channel_spacing_mm
        )
        self.jitter = probability("jitter", jitter)
        self.photometric_jitter = None if photometric_jitter is None else _photometric_strength(photometric_jitter)
        self.grey = probability("grey", grey)
        if grey and len(self.intensities.windows) not in (1, 3):
            found = len(self.intensities.windows)
            raise ValueError(f"grey {grey} mixes three windows, and there are {found}; set grey to 0")
        self.blur, self.blur_sigma = probability("blur", blur), number_range("blur_sigma", blur_sigma)
        self.noise = probability("noise", noise)
        self.noise_variance = number_range("noise_variance", noise_variance)

    def draw(self, rng: np.random.Generator, height: int, width: int, scale: tuple[float, float]) -> ViewParameters:
        """Draw one view of a slice of ``height`` x ``width`` pixels, covering a share of its area within ``scale``."""
        degrees = uniform(rng, -self.rotation_degrees, self.rotation_degrees) if chance(rng, self.rotation) else 0.0
        box = draw_resized_crop(rng, height, width, scale, self.ratio)
        crop = Crop(*box, chance(rng, self.flip_horizontal), chance(rng, self.flip_vertical), degrees)
        changed = chance(rng, self.jitter)
        return ViewParameters(
            crop=crop,
            window_jitter=self.intensities.draw(rng) if changed else WindowJitter(),
            photometric_jitter=draw_photometric_jitter(rng, self.photometric_jitter if changed else None),
            grey=chance(rng, self.grey),
            blur_sigma=uniform(rng, *self.blur_sigma) if chance(rng, self.blur) else 0.0,
            noise=NoiseParameters(log_uniform(rng, *self.noise_variance), draw_noise_seed(rng))
            if chance(rng, self.noise)
            else NoiseParameters(),
        )

    def apply(
        self, pixels: npt.NDArray[np.generic], parameters: ViewParameters, size: tuple[int, int], limits: Limits
    ) -> npt.NDArray[np.float32]:
        """View (channels, h, w) of a slice (H, W), or of a slice between its neighbours (3, H, W)."""
        view = resample(pixels, parameters.crop, size, self.interpolation)
        unit = unit_range(view, limits, parameters.window_jitter)  # (windows, h, w), or (3, h, w)
        unit = jittered(unit, parameters.photometric_jitter)
        unit = grey(unit) if parameters.grey and len(limits) > 1 else unit  # slices under one window are grey already
        unit = blurred(unit, parameters.blur_sigma)
        unit = noisy(unit, parameters.noise)
        return normalised(unit, self.intensities.norm)


def _photometric_strength(strength: Sequence[float]) -> tuple[float, float]:
    if len(strength) != 2 or not min(strength) >= 0:
        raise ValueError(f"photometric_jitter {tuple(strength)} must be (brightness, contrast), each at least 0")
    return float(strength[0]), float(strength[1])
