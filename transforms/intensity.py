"""Intensities of one view: windows in HU, jitter of the windows, normalisation.

Shapes: view in HU (h, w); result (channels, h, w) float32, one channel a window; a single window is repeated where mean
and std have three values. With a spacing of channels the view is (3, h, w), three slices under one window.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from monai.config.type_definitions import NdarrayOrTensor

from medssl_monai.errors import ConfigError
from medssl_monai.transforms.ct_window import require_hounsfield, window_limits
from medssl_monai.transforms.draws import log_uniform, uniform
from medssl_monai.transforms.samples import slice_array
from medssl_monai.windows import AdaptiveWindow, HUWindow, WindowSpec, parse_windows, resolve_window

Limits: TypeAlias = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class WindowJitter:
    """Change of a window before clipping, so that it keeps its meaning in HU."""

    level_shift: float = 0.0  # in widths of the window
    width_factor: float = 1.0

    def bottom_and_width(self, low: float, high: float) -> tuple[float, float]:
        """The changed window in HU: the value that maps to 0, and the width that maps to 1."""
        width = (high - low) * self.width_factor
        return (low + high) / 2 + self.level_shift * (high - low) - width / 2, width


def draw_window_jitter(rng: np.random.Generator, strength: tuple[float, float] | None) -> WindowJitter:
    """Level moved uniformly by up to ``strength[0]`` widths; width times a log-uniform factor of up to 1 + strength[1].

    Nothing is drawn for None.
    """
    if strength is None:
        return WindowJitter()
    level, width = strength
    return WindowJitter(uniform(rng, -level, level), log_uniform(rng, 1 / (1 + width), 1 + width))


def jitter_strength(window_jitter: Sequence[float]) -> tuple[float, float]:
    """Checked (level, width) strengths of a window jitter.

    Raises:
        ValueError: not two shares.
    """
    level, width = window_jitter
    if not (0 <= level <= 1 and 0 <= width <= 1):
        raise ValueError(f"window_jitter {tuple(window_jitter)} must be two shares of the window's width, each 0 .. 1")
    return float(level), float(width)


@dataclass(frozen=True)
class Normalisation:
    """(x - mean) / std per channel, for x in [0, 1].

    Raises:
        ValueError: lengths that do not fit the channels, or std not above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(
        cls, mean: float | Sequence[float], std: float | Sequence[float], windows: int, channels: int | None = None
    ) -> "Normalisation":
        """For a number of windows; ``channels`` defaults to one a window, or to the length of mean and std."""
        given = [tuple(x) if isinstance(x, Sequence) else (x,) for x in (mean, std)]
        count = channels or max(windows, *map(len, given))
        if windows not in (1, count) or any(len(x) not in (1, count) for x in given):
            raise ValueError(
                f"mean {mean}, std {std} and {windows} window(s) do not fit {count} channels: "
                "give one value or one a channel, and one window or one a channel"
            )
        means, stds = (tuple(float(v) for v in (x * count if len(x) == 1 else x)) for x in given)
        if min(stds) <= 0:
            raise ValueError(f"std {std} must be above 0: it is the standard deviation of intensities in [0, 1]")
        return cls(means, stds)


def unit_range(view: npt.NDArray[np.float32], limits: Limits, jitter: WindowJitter) -> npt.NDArray[np.float32]:
    """View (h, w) in HU -> (windows, h, w), each window's limits at 0 and 1, clipped; (3, h, w) under one window."""
    if view.ndim == 3:
        return np.concatenate([unit_range(channel, limits, jitter) for channel in view])
    unit = np.empty((len(limits), *view.shape), np.float32)
    for channel, (low, high) in zip(unit, limits, strict=True):
        bottom, width = jitter.bottom_and_width(low, high)
        np.clip((view - np.float32(bottom)) / np.float32(width), 0, 1, out=channel)
    return unit


def normalised(unit: npt.NDArray[np.float32], norm: Normalisation) -> npt.NDArray[np.float32]:
    """Intensities (windows, h, w) in [0, 1] -> (channels, h, w), (x - mean) / std; a single window is repeated."""
    out = np.empty((len(norm.mean), *unit.shape[1:]), np.float32)
    for channel, (mean, std) in enumerate(zip(norm.mean, norm.std, strict=True)):
        np.divide(unit[channel % len(unit)] - np.float32(mean), np.float32(std), out=out[channel])
    return out


def view_channels(
    window: WindowSpec, mean: float | Sequence[float], std: float | Sequence[float], channel_spacing_mm: float = 0.0
) -> int:
    """Channels of a view: one a window, or as many as there are means or deviations; three with a spacing of channels.

    Raises:
        ConfigError: no window is meant, or several with a spacing of channels.
        ValueError: windows, means and deviations do not fit one another.
    """
    return len(Intensities.of(window, None, None, mean, std, channel_spacing_mm=channel_spacing_mm).norm.mean)


def checked_spacing(channel_spacing_mm: Any) -> float:
    """The distance of three slices that are the channels of a view, mm; 0 for a slice alone.

    Raises:
        ConfigError: no number from 0.
    """
    number = isinstance(channel_spacing_mm, int | float) and not isinstance(channel_spacing_mm, bool)
    if not number or not 0 <= channel_spacing_mm < math.inf:
        raise ConfigError(
            f"channel_spacing_mm: must be a number of mm, such as 5, or 0 for a slice alone, found "
            f"{channel_spacing_mm!r}; correct it"
        )
    return float(channel_spacing_mm)


@dataclass(frozen=True)
class Intensities:
    """Windows of a recipe, their jitter and the normalisation; see `Intensities.of` for the arguments behind them."""

    windows: tuple[HUWindow | AdaptiveWindow, ...]
    fallback: HUWindow | None
    jitter: tuple[float, float] | None
    norm: Normalisation
    channel_spacing_mm: float

    @classmethod
    def of(
        cls,
        window: WindowSpec,
        window_fallback: str | Sequence[float] | None,
        window_jitter: Sequence[float] | None,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        channels: int | None = None,
        *,
        channel_spacing_mm: float = 0.0,
    ) -> "Intensities":
        """From the arguments of a recipe.

        Args:
            window: preset, [low, high] in HU, or a list of those: a channel each.
            window_fallback: a fixed window for ``tags`` where the image's tags give none.
            window_jitter: (level, width) strengths, see `draw_window_jitter`; None draws none.
            mean: of intensities in [0, 1]; one value, or one a channel.
            std: standard deviation of intensities in [0, 1]; one value, or one a channel.
            channels: of a view, see `Normalisation.of`.
            channel_spacing_mm: distance of the three slices that are the channels, mm; 0 for a slice alone.

        Raises:
            ValueError: windows, mean and std that do not fit one another, or strengths out of range.
            ConfigError: unknown window, a negative spacing, or a spacing with several windows.
        """
        windows = parse_windows(window)
        spacing = checked_spacing(channel_spacing_mm)
        if spacing and len(windows) > 1:
            raise ConfigError(
                f"channel_spacing_mm: the three channels are slices under one window, found {len(windows)} windows; "
                "give one window, or channel_spacing_mm=0"
            )
        return cls(
            windows,
            None if window_fallback is None else HUWindow(*resolve_window(window_fallback)),
            None if window_jitter is None else jitter_strength(window_jitter),
            Normalisation.of(mean, std, len(windows), 3 if spacing else channels),
            spacing,
        )

    def pixels(self, image: NdarrayOrTensor) -> npt.NDArray[np.generic]:
        """The pixels of an image that these intensities are for, see `slice_array`.

        Raises:
            ValueError: another shape.
        """
        return slice_array(image, self.channel_spacing_mm)

    def limits(self, pixels: npt.NDArray[np.generic], level: float | None, width: float | None) -> Limits:
        """The windows' limits for a slice with ``level`` and ``width`` in its tags: (H, W), or (3, H, W) about it."""
        own = pixels[1] if self.channel_spacing_mm else pixels
        return window_limits(self.windows, own, level, width, self.fallback)

    def require_hounsfield(self, data: Mapping[Any, Any]) -> None:
        """Refuse an item that is not in HU where a window is; see `ct_window.require_hounsfield`."""
        require_hounsfield(data, self.windows, self.fallback)

    def draw(self, rng: np.random.Generator) -> WindowJitter:
        """Draw a change of the windows."""
        return draw_window_jitter(rng, self.jitter)

    def apply(self, view: npt.NDArray[np.float32], limits: Limits, jitter: WindowJitter) -> npt.NDArray[np.float32]:
        """View (h, w) or (3, h, w) in HU -> (channels, h, w): window, clip to [0, 1], (x - mean) / std."""
        return normalised(unit_range(view, limits, jitter), self.norm)
