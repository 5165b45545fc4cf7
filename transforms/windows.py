"""CT windows: Hounsfield units (HU) to intensities in [0, 1].

A window with level c and width w maps HU x to ``(x - c) / w + 0.5``, clipped to [0, 1]: DICOM PS3.3 C.11.2.1.3.2,
VOI LUT function LINEAR_EXACT, with output range 0 .. 1. In limits: low = c - w/2 gives 0, high = c + w/2 gives 1.

Shapes: image (1, H, W) or (1, H, W, D); windowed (n_windows, ...).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import yaml
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from monai.utils.enums import TraceKeys

from medssl_monai.errors import ConfigError, NotHounsfieldError
from medssl_monai.resources import resource_dir

AdaptiveWindow: TypeAlias = Literal["tags", "minmax"]
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
def _presets() -> dict[str, HUWindow | AdaptiveWindow]:
    table = yaml.safe_load((resource_dir("configs") / "windows.yaml").read_text(encoding="utf-8"))
    return {
        name: row["bounds"] if "bounds" in row else HUWindow.from_level(float(row["level"]), float(row["width"]))
        for name, row in table.items()
    }


def window_names() -> tuple[str, ...]:
    """Names of the presets in ``configs/windows.yaml``, in the file's order."""
    return tuple(_presets())


def _parse_one(window: object) -> HUWindow | AdaptiveWindow:
    if isinstance(window, str):
        if window not in _presets():
            raise ConfigError(
                f"window {window!r} is no preset; choose one of {', '.join(window_names())}, or [low, high]"
            )
        return _presets()[window]
    if _is_pair(window):
        return HUWindow(float(window[0]), float(window[1]))  # type: ignore[index]
    raise ConfigError(f"window {window!r} must be a preset's name or a pair [low, high] in HU")


def _is_pair(window: object) -> bool:
    return (
        isinstance(window, Sequence)
        and not isinstance(window, str)
        and len(window) == 2
        and all(isinstance(limit, int | float) for limit in window)
    )


def parse_windows(window: WindowSpec) -> tuple[HUWindow | AdaptiveWindow, ...]:
    """One window or several: a preset's name, a pair [low, high] in HU, or a list of those (one channel each).

    Raises:
        ConfigError: unknown name, wrong form, or an empty list.
    """
    several = isinstance(window, Sequence) and not isinstance(window, str) and not _is_pair(window)
    parsed = tuple(_parse_one(one) for one in (window if several else [window]))
    if not parsed:
        raise ConfigError("window [] is empty; give at least one preset's name or pair [low, high]")
    return parsed


def resolve_window(window: str | Sequence[float]) -> tuple[float, float]:
    """Limits (low, high) in HU of one fixed window.

    Raises:
        ConfigError: unknown name, or ``tags``/``minmax``, whose limits depend on the image.
    """
    parsed = _parse_one(window)
    if not isinstance(parsed, HUWindow):
        raise ConfigError(f"window {window!r} depends on the image and has no fixed limits; choose a preset in HU")
    return parsed.low, parsed.high


def fixed_limits(window: WindowSpec) -> list[list[float]] | None:
    """Limits [[low, high], ...] in HU of one window or several, as plain numbers for a configuration file.

    None where one of them depends on the image (``tags``, ``minmax``).

    Raises:
        ConfigError: unknown name or wrong form.
    """
    parsed = parse_windows(window)
    return [[w.low, w.high] for w in parsed if isinstance(w, HUWindow)] if _all_fixed(parsed) else None


def _all_fixed(windows: Sequence[object]) -> bool:
    return all(isinstance(w, HUWindow) for w in windows)


def tags_window(level: float | None, width: float | None, fallback: HUWindow | None = None) -> HUWindow:
    """The window of an image's own tags, or ``fallback`` where they give none (None or NaN).

    Raises:
        ConfigError: no usable tags and no fallback. PS3.3 C.11.2.1.3.2 wants a width above 0.
    """
    if level is not None and width is not None and math.isfinite(level) and math.isfinite(width) and width > 0:
        return HUWindow.from_level(float(level), float(width))
    if fallback is None:
        raise ConfigError(
            f"window 'tags': the image's tags give level {level}, width {width}, and width must be above 0; "
            "set window_fallback to a preset, or choose a preset as window"
        )
    return fallback


def window_limits(
    windows: Sequence[HUWindow | AdaptiveWindow],
    image: NdarrayOrTensor,
    level: float | None = None,
    width: float | None = None,
    fallback: HUWindow | None = None,
) -> tuple[tuple[float, float], ...]:
    """(low, high) of each window for this image; ``minmax`` reads the image, ``tags`` level and width.

    A constant image under ``minmax`` gets a width of 1, so that it maps to 0.
    """
    limits: list[tuple[float, float]] = []
    for window in windows:
        if window == "minmax":
            low, high = float(image.min()), float(image.max())
            limits.append((low, high if high > low else low + 1.0))
        else:
            fixed = window if isinstance(window, HUWindow) else tags_window(level, width, fallback)
            limits.append((fixed.low, fixed.high))
    return tuple(limits)


def require_hounsfield(
    data: Mapping[Any, Any], windows: Sequence[HUWindow | AdaptiveWindow], fallback: HUWindow | None = None
) -> None:
    """Refuse windows in HU for an item whose ``modality`` says that it is not CT; an item without one passes.

    Raises:
        NotHounsfieldError: the modality is not CT and a window is given in HU.
    """
    modality = data.get("modality")
    in_hu = fallback is not None or any(isinstance(window, HUWindow) for window in windows)
    if modality and modality != "CT" and in_hu:
        raise NotHounsfieldError(
            f"window in HU on an image of modality {modality!r}: only CT is in Hounsfield units; "
            "choose window 'minmax' or 'tags', or filter the store by modality CT"
        )


class CTWindow(InvertibleTransform):
    """Map HU to [0, 1] through one or several windows.

    Args:
        window: a preset's name (``window_names()``), a pair [low, high] in HU, or a list of those: one channel each.
        clip: clip to [0, 1]; without it values beyond the limits leave that range.
        window_fallback: a fixed window for ``tags`` where the image's tags give none; by default that is an error.

    Examples:
        >>> CTWindow("lung")(np.array([[[-1350, -600, 150]]], dtype=np.int16)).tolist()
        [[[0.0, 0.5, 1.0]]]
    """

    def __init__(
        self, window: WindowSpec, *, clip: bool = True, window_fallback: str | Sequence[float] | None = None
    ) -> None:
        self.windows = parse_windows(window)
        self.clip = clip
        self.fallback = None if window_fallback is None else HUWindow(*resolve_window(window_fallback))

    def __call__(self, img: NdarrayOrTensor, level: float | None = None, width: float | None = None) -> NdarrayOrTensor:
        """Image (1, H, W[, D]) in HU -> float32 (n_windows, H, W[, D]); array in, array out; tensor in, tensor out.

        Args:
            img: int or float HU; any unit for ``minmax`` and ``tags``.
            level: the image's own level, for ``tags``.
            width: the image's own width, for ``tags``.

        Raises:
            ValueError: not one channel.
            ConfigError: ``tags`` without usable level and width, and no fallback.
        """
        if img.ndim < 2 or img.shape[0] != 1:
            raise ValueError(f"image of shape {tuple(img.shape)}: CTWindow takes one channel, (1, H, W[, D])")
        limits = window_limits(self.windows, img, level, width, self.fallback)
        if isinstance(img, np.ndarray):
            hu = img.astype(np.float32)
            out = np.concatenate([(hu - np.float32(low)) / np.float32(high - low) for low, high in limits])
            return np.clip(out, 0, 1) if self.clip else out
        result = torch.cat([(img.to(torch.float32) - low) / (high - low) for low, high in limits])
        result = result.clamp(0, 1) if self.clip else result
        if isinstance(result, MetaTensor) and get_track_meta():
            result = self.push_transform(  # type: ignore[no-untyped-call]
                result, extra_info={"limits": [list(pair) for pair in limits]}
            )
        return result

    def inverse(self, data: NdarrayOrTensor) -> NdarrayOrTensor:
        """Intensities (1, ...) back to HU, float32; what was clipped stays at the window's limits.

        A tracked MetaTensor remembers its limits, so that ``tags`` and ``minmax`` can be inverted as well.

        Raises:
            ValueError: several windows, or limits that depend on an image that was not tracked.
        """
        limits: list[Any] = [[w.low, w.high] for w in self.windows if isinstance(w, HUWindow)]
        if isinstance(data, MetaTensor) and data.applied_operations:
            limits = self.pop_transform(data)[TraceKeys.EXTRA_INFO]["limits"]
        if len(self.windows) != 1 or len(limits) != 1:
            raise ValueError(
                f"{len(self.windows)} windows ({self.windows}) have no inverse: give one window, fixed in HU, "
                "or a MetaTensor that this transform made"
            )
        low, high = limits[0]
        restored: NdarrayOrTensor = data * (high - low) + low
        return restored.astype(np.float32) if isinstance(restored, np.ndarray) else restored.to(torch.float32)


class CTWindowd(MapTransform, InvertibleTransform):
    """Dictionary form of `CTWindow`; ``tags`` reads the item's ``window_level`` and ``window_width``.

    Raises:
        NotHounsfieldError: at call, for a window in HU on an item whose ``modality`` is not CT.
    """

    def __init__(
        self,
        keys: KeysCollection,
        window: WindowSpec,
        *,
        clip: bool = True,
        window_fallback: str | Sequence[float] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.transform = CTWindow(window, clip=clip, window_fallback=window_fallback)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Item with HU images (1, H, W[, D]) -> the same item with float32 (n_windows, H, W[, D])."""
        require_hounsfield(data, self.transform.windows, self.transform.fallback)
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.transform(item[key], data.get("window_level"), data.get("window_width"))
        return item

    def inverse(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Back to clipped HU, see `CTWindow.inverse`."""
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = self.transform.inverse(item[key])
        return item
