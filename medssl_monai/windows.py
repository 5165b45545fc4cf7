"""What a CT window is: limits in Hounsfield units (HU) between which intensities run from 0 to 1.

A window with level c and width w maps HU x to ``(x - c) / w + 0.5``, clipped to [0, 1]: DICOM PS3.3 C.11.2.1.3.2,
VOI LUT function LINEAR_EXACT, with output range 0 .. 1. In limits: low = c - w/2 gives 0, high = c + w/2 gives 1.
The presets are in ``configs/windows.yaml``; `medssl_monai.transforms.ct_window` applies windows to images.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, TypeGuard

import yaml

from medssl_monai.errors import ConfigError
from medssl_monai.resources import resource_dir

AdaptiveWindow: TypeAlias = Literal["tags", "minmax", "picture"]
WindowSpec: TypeAlias = str | Sequence[float] | Sequence[str | Sequence[float]]


@dataclass(frozen=True)
class HUWindow:
    """A fixed window, by its limits in HU.

    Raises:
        ConfigError: a limit is not finite, or ``low`` is not below ``high``.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"window [{self.low}, {self.high}]: low must be below high and both finite; give [low, high] in HU"
            )

    @classmethod
    def from_level(cls, level: float, width: float) -> "HUWindow":
        """From level and width in HU, as DICOM's Window Center (0028,1050) and Window Width (0028,1051)."""
        return cls(level - width / 2, level + width / 2)

    @property
    def level(self) -> float:
        """Centre in HU."""
        return (self.low + self.high) / 2

    @property
    def width(self) -> float:
        """Distance of the limits in HU."""
        return self.high - self.low


@lru_cache(maxsize=1)
def window_presets() -> Mapping[str, HUWindow | AdaptiveWindow]:
    """The presets of one window in ``configs/windows.yaml`` by name, in the file's order."""
    presets = {
        name: row["bounds"] if "bounds" in row else HUWindow.from_level(float(row["level"]), float(row["width"]))
        for name, row in _table().items()
        if "windows" not in row
    }
    return MappingProxyType(presets)


@lru_cache(maxsize=1)
def window_sets() -> Mapping[str, tuple[HUWindow, ...]]:
    """The presets of published models by name: one window or several, one a channel.

    Example:
        >>> [(one.low, one.high) for one in window_sets()["medgemma"]]
        [(-1024.0, 1024.0), (-135.0, 215.0), (0.0, 80.0)]
    """
    rows = {name: row["windows"] for name, row in _table().items() if "windows" in row}
    return MappingProxyType(
        {name: tuple(HUWindow(float(low), float(high)) for low, high in pairs) for name, pairs in rows.items()}
    )


@lru_cache(maxsize=1)
def _table() -> Mapping[str, Any]:
    content: Mapping[str, Any] = yaml.safe_load((resource_dir("configs") / "windows.yaml").read_text(encoding="utf-8"))
    return content


def _parse_one(window: object) -> HUWindow | AdaptiveWindow:
    if isinstance(window, str):
        if window in window_sets():
            first, *others = window_sets()[window]
            if not others:
                return first
            raise ConfigError(
                f"window {window!r} is several, one a channel; one is needed here: give [low, high] in HU"
            )
        if window not in window_presets():
            known = ", ".join((*window_presets(), *window_sets()))
            raise ConfigError(f"window {window!r} is no preset; choose one of {known}, or [low, high]")
        return window_presets()[window]
    if is_limits(window):
        return HUWindow(float(window[0]), float(window[1]))
    raise ConfigError(f"window {window!r} must be a preset's name or a pair [low, high] in HU")


def is_limits(window: object) -> TypeGuard[Sequence[float]]:
    """Whether a window is given as a pair [low, high] of numbers."""
    return (
        isinstance(window, Sequence)
        and not isinstance(window, str)
        and len(window) == 2
        and all(isinstance(limit, int | float) for limit in window)
    )


def parse_windows(window: WindowSpec) -> tuple[HUWindow | AdaptiveWindow, ...]:
    """One window or several: a preset's name, a pair [low, high] in HU, or a list of those (one channel each).

    A name of `window_sets` stands for several.

    Raises:
        ConfigError: unknown name, wrong form, or an empty list.
    """
    if isinstance(window, str) and window in window_sets():
        return window_sets()[window]
    several = isinstance(window, Sequence) and not isinstance(window, str) and not is_limits(window)
    parsed = tuple(_parse_one(one) for one in (window if several else [window]))
    if not parsed:
        raise ConfigError("window [] is empty; give at least one preset's name or pair [low, high]")
    return parsed


def resolve_window(window: str | Sequence[float]) -> tuple[float, float]:
    """Limits (low, high) in HU of one fixed window.

    Raises:
        ConfigError: unknown name, or ``tags``, ``minmax`` or ``picture``, which depend on the image.
    """
    parsed = _parse_one(window)
    if not isinstance(parsed, HUWindow):
        raise ConfigError(f"window {window!r} depends on the image and has no fixed limits; choose a preset in HU")
    return parsed.low, parsed.high


def fixed_limits(window: WindowSpec) -> list[list[float]] | None:
    """Limits [[low, high], ...] in HU of one window or several, as plain numbers for a configuration file.

    None where one of them depends on the image (``tags``, ``minmax``, ``picture``).

    Raises:
        ConfigError: unknown name or wrong form.
    """
    parsed = parse_windows(window)
    fixed = [[w.low, w.high] for w in parsed if isinstance(w, HUWindow)]
    return fixed if len(fixed) == len(parsed) else None
