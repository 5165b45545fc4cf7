"""CT windows applied to images: Hounsfield units (HU) to intensities in [0, 1].

`medssl_monai.windows` says what a window is and which presets there are.
Shapes: image (1, H, W) or (1, H, W, D); windowed (n_windows, ...).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config.type_definitions import KeysCollection, NdarrayOrTensor
from monai.data.meta_obj import get_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from monai.utils.enums import TraceKeys

from medssl_monai.errors import ConfigError, NotHounsfieldError
from medssl_monai.windows import AdaptiveWindow, HUWindow, WindowSpec, parse_windows, resolve_window

EIGHT_BITS = HUWindow(0, 255)
"""The range of a picture of 8 bits, whose values are not HU."""


def tags_window(level: float | None, width: float | None, fallback: HUWindow | None = None) -> HUWindow:
    """The window of an image's own tags, or ``fallback`` where they give none (None or NaN).

    Raises:
        ConfigError: no usable tags and no fallback. PS3.3 C.11.2.1.3.2 requires a width above 0.
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
    """(low, high) of each window for this image.

    ``minmax`` reads the image, ``tags`` level and width; so does ``picture``, for which 0 .. 255 is the fallback.
    A constant image under ``minmax`` gets a width of 1, so that it maps to 0.
    """
    limits: list[tuple[float, float]] = []
    for window in windows:
        if window == "minmax":
            low, high = float(image.min()), float(image.max())
            limits.append((low, high if high > low else low + 1.0))
        else:
            instead = EIGHT_BITS if window == "picture" else fallback
            fixed = window if isinstance(window, HUWindow) else tags_window(level, width, instead)
            limits.append((fixed.low, fixed.high))
    return tuple(limits)


def require_hounsfield(
    data: Mapping[Any, Any], windows: Sequence[HUWindow | AdaptiveWindow], fallback: HUWindow | None = None
) -> None:
    """Refuse windows in HU for an item with a ``modality`` other than CT, and ``picture`` for CT.

    An item without a modality passes.

    Raises:
        NotHounsfieldError: the modality is not CT and a window is in HU, or it is CT and the window is for pictures.
    """
    modality = data.get("modality")
    if modality == "CT" and "picture" in windows:
        raise NotHounsfieldError(
            "window 'picture' on CT in Hounsfield units: it is for picture files, which have none; choose a window in "
            "HU, and weights that were trained on HU"
        )
    in_hu = fallback is not None or any(isinstance(window, HUWindow) for window in windows)
    if modality and modality != "CT" and in_hu:
        raise NotHounsfieldError(
            f"window in HU on an image of modality {modality!r}: only CT is in Hounsfield units; "
            "choose window 'picture' for picture files, 'minmax' or 'tags', or filter the store by modality CT"
        )


class CTWindow(InvertibleTransform):
    """Map HU to [0, 1] through one or several windows.

    Args:
        window: a preset's name, a pair [low, high] in HU, or a list of those: one channel each.
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
        NotHounsfieldError: at call, for a window in HU on an item with a ``modality`` other than CT.
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
