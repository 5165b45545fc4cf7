"""Pictures of slices with what spoke for the answer over them.

Shapes: slice (H, W), picture (H, W) or (H, W, 3) in [0, 1], view (3, S, S), map (S, S).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from torch import nn
from torch.utils.data import Dataset

from medssl_monai.atomic import write_atomically
from medssl_monai.classify.explain import Example, grad_cam
from medssl_monai.classify.prediction_result import PredictionResult
from medssl_monai.transforms.ct_window import window_limits
from medssl_monai.windows import WindowSpec, parse_windows

Floats = npt.NDArray[np.floating[Any]]

OPACITY = 0.5
"""Of the map where it is strongest; where there is nothing to show the slice stays as it is."""
COLOURS = "viridis"
"""Of a map of what spoke for a class, from nothing to the most in its slice."""
BRIGHT: dict[str, Any] = {"color": "white", "path_effects": [withStroke(linewidth=2, foreground="black")]}


@dataclass(frozen=True)
class HeatMap:
    """A slice with its maps.

    Attributes:
        series: pseudonym.
        slice: number in its series.
        picture: (H, W) or (H, W, 3) in [0, 1].
        grad_cam: (H, W) in [0, 1].
        occlusion: (H, W), fall of the class's probability; None where it was not asked for.
        asked: the class that the maps are about.
        probability: of that class.
        flag: why no class is named; "" where one is.
        spacing_mm: (row, column); None where unknown.
        window: what the picture shows, in words.
    """

    series: str
    slice: int
    picture: Floats
    grad_cam: Floats
    occlusion: Floats | None
    asked: str
    probability: float
    flag: str
    spacing_mm: tuple[float, float] | None
    window: str


def choose_rows(result: PredictionResult, series: str, count: int) -> list[int]:
    """Rows of a series to be shown: in each of ``count`` equal parts the slice with the class's largest probability.

    Of a study that is flagged the slices least like those of training.
    """
    rows = result.series_rows[series]
    study = next(one for one in result.studies if one["series_id"] == series)
    shares = list(study["probabilities"].values())
    wanted = int(np.argmax(shares))

    def worth(i: int) -> float:
        if study["flag"]:
            return 0.0 if result.scores is None else float(result.scores[i])
        return float(result.probabilities[i][wanted]) - (2.0 if result.flagged[i] else 0.0)

    parts = np.array_split(np.asarray(rows), min(count, len(rows)))
    return [max((int(i) for i in part), key=worth) for part in parts]


def windowed_slice(
    hu: npt.NDArray[np.integer[Any]], window: WindowSpec, level: float | None = None, width: float | None = None
) -> tuple[Floats, str]:
    """A slice (H, W) in HU as a picture in [0, 1], by the first of the classifier's windows; and that in words."""
    low, high = window_limits(parse_windows(window), hu, level, width, None)[0]
    return np.clip((hu.astype(np.float64) - low) / (high - low), 0, 1), f"{low:.0f} to {high:.0f} HU"


def on_slice(heat: Floats, shape: tuple[int, int], *, fitted: bool = True) -> Floats:
    """A map of a view (S, S) on the slice's own grid (H, W).

    Args:
        heat: the map.
        shape: of the slice.
        fitted: whether the view holds the slice with its longest side fitted and air around it (`LabelledView`), or
            stretched to the square (`ImageViewd`).
    """
    if fitted:
        side = heat.shape[0]
        height, width = (max(1, round(length * side / max(shape))) for length in shape)  # a slice may be a strip
        top, left = (side - height) // 2, (side - width) // 2
        heat = heat[top : top + height, left : left + width]
    return np.asarray(cv2.resize(heat, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR))


def overlay(picture: Floats, heat: Floats) -> Floats:
    """(H, W, 3) in [0, 1]: the picture with the map over it, the more opaque the stronger the map."""
    base = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    colours = colormaps[COLOURS](np.clip(heat, 0, 1))[..., :3]
    opacity = OPACITY * np.clip(heat * 2, 0, 1)[..., None]
    return np.asarray(base * (1 - opacity) + colours * opacity)


def draw_heat_map(heat_map: HeatMap, path: Path) -> None:
    """Draw the slice, Grad-CAM over it, and occlusion over it where it was asked for."""
    panels = 2 + (heat_map.occlusion is not None)
    figure = Figure(figsize=(0.4 + 3.7 * panels, 4.7), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, panels))
    row, column = heat_map.spacing_mm or (1.0, 1.0)
    for panel in axes:
        picture = heat_map.picture
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=row / column)
        panel.set_axis_off()
    axes[0].set_title(f"slice {heat_map.slice}, {heat_map.window}", fontsize=9)
    _orient(axes[0], heat_map)
    axes[1].imshow(overlay(heat_map.picture, heat_map.grad_cam), aspect=row / column)
    axes[1].set_title("Grad-CAM: what spoke for it", fontsize=9)
    _bar(figure, ScalarMappable(cmap=COLOURS), axes[1], "share of the strongest")
    if heat_map.occlusion is not None:
        most = max(float(np.abs(heat_map.occlusion).max()), 0.01)
        alpha = np.clip(np.abs(heat_map.occlusion) / most * 1.5, 0, 0.75)
        image = axes[2].imshow(heat_map.occlusion, cmap="PuOr", vmin=-most, vmax=most, alpha=alpha, aspect=row / column)
        axes[2].set_title("Occlusion: hidden, it falls by", fontsize=9)
        _bar(figure, image, axes[2], "fall of the probability (below 0: rise)")
    asked = heat_map.asked.replace("_", " ")
    answer = f"{heat_map.flag} (nearest class: {asked}, {heat_map.probability:.2f})" if heat_map.flag else ""
    figure.suptitle(f"{heat_map.series}\n{answer or f'{asked}, probability {heat_map.probability:.2f}'}", fontsize=10)
    write_atomically(path, lambda p: figure.savefig(p, dpi=110))


def _bar(figure: Any, image: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.8, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.locator = MaxNLocator(5)
    bar.update_ticks()
    bar.solids.set_alpha(1)


def _orient(axes: Any, heat_map: HeatMap) -> None:
    """Letters for right and left, and a bar of 50 mm, where the slice is one in space."""
    if heat_map.spacing_mm is None:
        return
    height, width = heat_map.picture.shape[:2]
    for x, letter in ((0.03, "R"), (0.97, "L")):
        axes.text(x, 0.5, letter, transform=axes.transAxes, fontsize=9, ha="center", va="center", **BRIGHT)
    pixels = 50 / heat_map.spacing_mm[1]
    if pixels < 0.8 * width:
        axes.plot([0.04 * width, 0.04 * width + pixels], [0.96 * height] * 2, color="white", linewidth=1.5)
        axes.text(0.04 * width, 0.94 * height, "50 mm", fontsize=7, va="bottom", **BRIGHT)


def draw_explanations(
    network: nn.Module,
    dataset: Dataset[dict[str, Any]],
    examples: Sequence[Example],
    classes: Sequence[str],
    path: Path,
    *,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
) -> None:
    """Draw each example's view, and over it what spoke for the predicted class.

    Args:
        network: a torchvision ResNet.
        dataset: items with ``image`` (3, S, S).
        examples: from `choose_examples`; at least one.
        classes: names.
        path: PNG to write.
        mean: that the views were normalised by, to show them as they were.
        std: likewise.
    """
    figure = Figure(figsize=(0.6 + 2.3 * len(examples), 5.4), layout="constrained")
    panels = figure.subplots(2, len(examples), squeeze=False)
    shift, scale = np.ravel(mean)[0], np.ravel(std)[0]
    for (upper, lower), example in zip(panels.T, examples, strict=True):
        view = dataset[example.index]["image"]
        picture = np.clip(np.asarray(view[0]) * scale + shift, 0, 1)
        upper.imshow(picture, cmap="gray", vmin=0, vmax=1)
        lower.imshow(overlay(picture, grad_cam(network, view, example.predicted)))
        for axes in (upper, lower):
            axes.set_axis_off()
        names = [classes[c].replace("_", " ") for c in (example.label, example.predicted)]
        verdict = "right" if example.label == example.predicted else "wrong"
        upper.set_title(f"{names[0]}\npredicted {names[1]}\n{example.confidence:.2f}, {verdict}", fontsize=9)
    figure.colorbar(
        ScalarMappable(cmap=COLOURS),
        ax=panels[1].tolist(),
        shrink=0.8,
        label="for the prediction\n(share of the strongest)",
    )
    figure.suptitle("Grad-CAM: what spoke for the class predicted (cells of 32 × 32 pixels)", fontsize=11)
    write_atomically(path, lambda p: figure.savefig(p, dpi=120))
