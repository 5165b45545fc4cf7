"""What a network starts as: the weights' own architecture and preprocessing, unless the user asks for another."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.checkpoints.preprocessing import (
    HOUNSFIELD,
    PICTURES,
    Constants,
    Preprocessing,
    check_intensities,
    check_preprocessing,
    input_of,
)
from medssl_monai.errors import ConfigError
from medssl_monai.windows import WindowSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NetworkStart:
    """The architecture of a network, such as ``resnet50``, and how its images are prepared."""

    arch: str
    prepared: Preprocessing


def start_from(
    path: str | Path | None,
    *,
    arch: str | None = None,
    image_size: int | Sequence[int] | None = None,
    window: WindowSpec | None = None,
    mean: Constants | None = None,
    std: Constants | None = None,
    channel_spacing_mm: float | None = None,
    default: Mapping[str, Any] | None = None,
    check: bool = True,
    pictures: bool | None = None,
) -> NetworkStart:
    """The architecture and preprocessing of a network that starts from these weights; logs what it takes from them.

    Args:
        path: file or run; None or "" for a network that starts from nothing.
        arch: what the user asks for; None takes the weights' own. The same for the following.
        image_size: pixels of a side, or rows and columns.
        window: see `Preprocessing`; the same for `mean` and `std`.
        mean: see `window`.
        std: see `window`.
        channel_spacing_mm: see `window`.
        default: values for what neither the user nor the weights tell, by name.
        check: refuse a window, mean, std or spacing of channels that contradicts the weights, and weights of pictures
            for images in HU or the other way round. Without it such weights do not tell window, mean and std.
        pictures: whether the images at hand are pictures; False is HU, and None refuses neither. Pictures have no
            neighbours: a warning says so of weights with a spacing of channels.

    Raises:
        CheckpointError: the weights cannot be read, or `check` and the user's values differ from theirs.
        ConfigError: a `channel_spacing_mm` for pictures.
    """
    if pictures and channel_spacing_mm:
        raise ConfigError(
            f"channel_spacing_mm: pictures have no neighbouring slices, found {channel_spacing_mm:g}; leave it out"
        )
    images = None if pictures is None else PICTURES if pictures else HOUNSFIELD
    trained: dict[str, Any] = {}
    if path:
        _, report = load_encoder(path)
        known = Preprocessing.from_metadata(report.metadata, report.source)
        if check:
            check_intensities(known, images, Path(path).name)
            check_preprocessing(
                known,
                window=window,
                mean=mean,
                std=std,
                channel_spacing_mm=channel_spacing_mm,
                source=Path(path).name,
            )
        elif {images, input_of(known.window)} == {PICTURES, HOUNSFIELD}:
            known = replace(known, window=None, mean=None, std=None)
        if pictures and known.channel_spacing_mm:
            logger.warning(
                "%s: was trained on slices %g mm apart as its channels, and a picture has no neighbours: it is "
                "repeated in all three",
                Path(path).name,
                known.channel_spacing_mm,
            )
            known = replace(known, channel_spacing_mm=None)
        trained = {"arch": report.arch, **vars(known)}
    asked: dict[str, Any] = {
        "arch": arch,
        "image_size": image_size,
        "window": window,
        "mean": mean,
        "std": std,
        "channel_spacing_mm": channel_spacing_mm,
    }
    layers: tuple[Mapping[str, Any], ...] = (default or {}, trained, asked)
    values = {name: value for layer in layers for name, value in layer.items() if value is not None}
    followed = [name for name in asked if asked[name] is None and trained.get(name) is not None]
    followed = [name for name in followed if name != "channel_spacing_mm" or values[name]]  # 0 is nothing to follow
    if followed:
        logger.info("as the weights were trained: %s", ", ".join(f"{name} {values[name]}" for name in followed))
    return NetworkStart(values.pop("arch"), Preprocessing(**values))
