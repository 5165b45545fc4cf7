"""The preprocessing of an encoder's training images, which is stored with the weights and checked on use.

Intensities are HU windowed to [0, 1], then ``(x - mean) / std``.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.windows import (
    HUWindow,
    WindowSpec,
    fixed_limits,
    is_limits,
    parse_windows,
    window_presets,
    window_sets,
)

Constants: TypeAlias = float | Sequence[float]


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of an encoder's images; None where unknown.

    `window` is a name of ``configs/windows.yaml``, [low, high] in HU, or a list of these, one a channel; `mean` and
    `std` are of intensities in [0, 1], one or one a channel; `channels` are the different ones: 1 or 3.
    `image_size` is a side in pixels, or rows and columns. `channel_spacing_mm` is the distance of three slices that are
    the channels: one that lies so far below, the slice itself, and one that lies so far above; 0 is the slice alone.
    """

    window: WindowSpec | None = None
    mean: Constants | None = None
    std: Constants | None = None
    channels: int | None = None
    image_size: int | Sequence[int] | None = None
    channel_spacing_mm: float | None = None

    def to_metadata(self) -> dict[str, str]:
        """As strings of JSON, for a safetensors header; unknown values are left out."""
        return {key: json.dumps(value) for key, value in vars(self).items() if value is not None}

    @property
    def same_in_all_channels(self) -> bool:
        """Whether all channels hold the same image, as far as is known: one slice, one window, mean and deviation."""
        several = [isinstance(each, Sequence) and len(set(each)) > 1 for each in (self.mean, self.std)]
        return (
            not any(several) and not self.channel_spacing_mm and (self.window is None or len(_limits(self.window)) == 1)
        )

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], source: str = "metadata") -> "Preprocessing":
        """The inverse of `to_metadata`; other entries are ignored.

        Raises CheckpointError for an entry that is not JSON of the right kind.
        """
        found = {key: _parsed(key, metadata[key], source) for key in cls.__dataclass_fields__ if key in metadata}
        return cls(**found)


# Wolf et al. 2023 map each slice's minimum .. maximum to 0 .. 1, and normalise by their data's mean and deviation;
# their SparK, like torchvision's and the official weights, by ImageNet's.
REFERENCE = Preprocessing("minmax", (0.1806,) * 3, (0.1907,) * 3, 1)
IMAGENET = Preprocessing(None, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 3)
UNKNOWN = Preprocessing()

PICTURE_WINDOW, PICTURES, HOUNSFIELD = "picture", "8-bit pictures, per-slice range", "Hounsfield units"
"""The window of picture files, and in words what a window takes for its input."""
REFERENCE_SPARK = replace(IMAGENET, window="minmax", channels=1)


def with_window_limits(metadata: Mapping[str, str]) -> dict[str, str]:
    """A header's strings with ``window_hu``: the limits [[low, high], …] in HU of their ``window``, as JSON.

    There is none for a window that depends on the image or is unknown here. Weights of pictures get ``intensities``.
    """
    try:
        limits = fixed_limits(json.loads(metadata["window"]))
    except (KeyError, ValueError):  # a ConfigError is a ValueError
        limits = None
    kept = {key: value for key, value in metadata.items() if key not in ("window_hu", "intensities")}
    if PICTURE_WINDOW in kept.get("window", ""):
        kept["intensities"] = PICTURES
    return kept if limits is None else {**kept, "window_hu": json.dumps(limits)}


def check_stated(stated: Preprocessing) -> None:
    """Refuse what nobody could prepare images by.

    Raises:
        ConfigError: no such window; ``mean`` not in [0, 1] or ``std`` not in (0, 1], one number or one a channel.
    """
    if stated.window is not None:
        parse_windows(stated.window)
    for name, value in (("mean", stated.mean), ("std", stated.std)):
        numbers = list(value) if isinstance(value, list | tuple) else [value]
        good = len(numbers) in (1, 3) and all(
            isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x <= 1 and (x or name == "mean")
            for x in numbers
        )
        if value is not None and not good:
            least = "above 0 and at most 1" if name == "std" else "from 0 to 1"
            raise ConfigError(
                f"{name} must be one number or three, {least}, because intensities are from 0 to 1, found {value}; "
                "correct it (divide constants for 0 to 255 by 255)"
            )


def check_preprocessing(
    metadata: Mapping[str, str] | Preprocessing,
    *,
    window: WindowSpec | None = None,
    mean: Constants | None = None,
    std: Constants | None = None,
    channels: int | None = None,
    channel_spacing_mm: float | None = None,
    source: str = "weights",
) -> None:
    """Compare a transform with the weights' preprocessing; values that either side leaves open are not compared.

    Windows are compared by their limits, so that a name equals the pair [low, high] that it stands for; one constant
    equals three equal ones. The window ``picture`` equals every window that is not in HU.

    Raises:
        CheckpointError: they differ. The message names each difference and the value to set.
    """
    trained = metadata if isinstance(metadata, Preprocessing) else Preprocessing.from_metadata(metadata, source)
    check_intensities(trained, input_of(window), source)
    differences = []
    if (
        window is not None
        and trained.window is not None
        and input_of(window) != PICTURES
        and _limits(window) != _limits(trained.window)
    ):
        differences.append(f"window {_shown(trained.window)}, not {_shown(window)}")
    for name, here, there in (("mean", mean, trained.mean), ("std", std, trained.std)):
        if here is not None and there is not None and not _close(here, there):
            differences.append(f"{name} {_shown(there)}, not {_shown(here)}")
    spacings = channel_spacing_mm, trained.channel_spacing_mm
    if None not in spacings and spacings[0] != spacings[1]:
        differences.append(f"channel_spacing_mm {spacings[1]:g}, not {spacings[0]:g}")
    if channels is not None and trained.channels is not None and channels != trained.channels:
        differences.append(f"channels {trained.channels}, not {channels}")
    if differences:
        raise CheckpointError(
            f"{source}: images must be prepared as in pre-training, found {'; '.join(differences)}; "
            f"set these keys, or switch the check off where the difference is meant"
        )


def input_of(window: WindowSpec | None) -> str | None:
    """`PICTURES` or `HOUNSFIELD`, whichever a window is for; None where it is unknown or takes both."""
    channels = () if window is None else _limits(window)
    if PICTURE_WINDOW in channels:
        return PICTURES
    return HOUNSFIELD if any(isinstance(one, tuple) for one in channels) else None


def check_intensities(trained: Preprocessing, images: str | None, source: str) -> None:
    """Refuse weights of pictures for images in HU, and the other way round.

    Args:
        trained: the weights' own preprocessing.
        images: `PICTURES` or `HOUNSFIELD`; None where it is unknown.
        source: what an error names.

    Raises:
        CheckpointError: `images` are the one, and the weights were trained on the other.
    """
    there = input_of(trained.window)
    if images is not None and there is not None and images != there:
        raise CheckpointError(
            f"{source}: was trained on {there}, and the images are {images}; give an encoder that was trained on such "
            "images, or set check_weights=false to use it all the same"
        )


def _parsed(key: str, text: str, source: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise CheckpointError(
            f"{source}: {key} in the header must be JSON, found {text[:80]!r}; export the encoder again"
        ) from error
    kinds: dict[str, tuple[type, ...]] = {
        "window": (str, list),
        "channels": (int,),
        "channel_spacing_mm": (int, float),
    }
    if not isinstance(value, kinds.get(key, (int, float, list))):
        raise CheckpointError(f"{source}: {key} in the header is {text[:80]}; export the encoder again")
    return _as_tuple(value)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(each) for each in value) if isinstance(value, list) else value


def _limits(window: WindowSpec) -> tuple[Any, ...]:
    """One entry a channel: (low, high) in HU, or the name of a window that depends on the image."""
    if isinstance(window, str) and window in window_sets():
        return tuple((one.low, one.high) for one in window_sets()[window])
    if isinstance(window, str):
        preset = window_presets().get(window)  # weights may name a window of their own
        return ((preset.low, preset.high) if isinstance(preset, HUWindow) else window,)
    if is_limits(window):
        return ((float(window[0]), float(window[1])),)
    channels = tuple(limits for each in window for limits in _limits(each))  # type: ignore[arg-type]
    return channels[:1] if len(set(channels)) == 1 else channels


def _close(here: Constants, there: Constants) -> bool:
    a, b = ([float(each)] if isinstance(each, int | float) else [float(x) for x in each] for each in (here, there))
    count = max(len(a), len(b))
    a, b = (each * count if len(each) == 1 else each for each in (a, b))
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a, b, strict=True))


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
