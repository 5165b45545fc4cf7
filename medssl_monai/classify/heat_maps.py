"""Pictures of slices with what spoke for the answer over them.

Shapes: slice (H, W), picture (H, W) or (H, W, 3) in [0, 1], view (3, S, S), map (S, S).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
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

from medssl_monai.classify.explain import Example, grad_cam
from medssl_monai.classify.prediction_result import PredictionResult
from medssl_monai.drawing import picture_text, save_figure
from medssl_monai.plain_text import plain_text
from medssl_monai.transforms.ct_window import window_limits
from medssl_monai.windows import WindowSpec, parse_windows

Floats = npt.NDArray[np.floating[Any]]

OPACITY = 0.5
"""Of the map where it is strongest; where there is nothing to show the slice stays as it is."""
COLOURS = "viridis"
"""Of a map of what spoke for a class, from nothing to the most in its slice."""
PANEL_WIDTH = 24
"""Characters of a title that stand beside one another over a panel of `draw_explanations`."""
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
        title: what the slice is called above it.
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
    title: str


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


def on_slice(heat: Floats, shape: tuple[int, int], *, fitted: bool = True, transposed: bool = False) -> Floats:
    """A map of a view (S, S) on the slice's own grid (H, W).

    Args:
        heat: the map.
        shape: of the slice.
        fitted: whether the view holds the slice with its longest side fitted and air around it (`LabelledView`), or
            stretched to the square (`ImageViewd`).
        transposed: whether the view has rows for columns (`ImageViewd` with ``transpose``).
    """
    heat = heat.T if transposed else heat
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
    """Draw the slice, Grad-CAM over it, and occlusion over it where it was asked for.

    All panels have the slice's proportions. Occlusion has the same scale in every picture, -1 to 1, so that pictures
    can be compared; its opacity follows the change, and the title says the largest.
    """
    panels = 2 + (heat_map.occlusion is not None)
    row, column = heat_map.spacing_mm or (1.0, 1.0)
    proportion = heat_map.picture.shape[0] * row / (heat_map.picture.shape[1] * column)
    width = min(3.7, max(2.4, 5 / proportion))
    height = min(8.0, width * proportion)
    figure = Figure(figsize=(0.4 + width * panels, 1.6 + height), layout="constrained")
    axes, bars = figure.subplots(2, panels, height_ratios=[height, 0.12])
    for panel in axes:
        panel.imshow(heat_map.picture, cmap="gray", vmin=0, vmax=1, aspect=row / column)
        panel.set_axis_off()
    bars[0].set_axis_off()
    axes[0].set_title(f"slice {heat_map.slice}, {heat_map.window}", fontsize=9)
    _orient(axes[0], heat_map)
    axes[1].imshow(overlay(heat_map.picture, heat_map.grad_cam), aspect=row / column)
    axes[1].set_title("Grad-CAM: what spoke for it", fontsize=9)
    _bar(figure, ScalarMappable(cmap=COLOURS), bars[1], "share of the strongest")
    if heat_map.occlusion is not None:
        fall = heat_map.occlusion
        alpha = np.clip(np.abs(fall) * 3, 0, 0.75)
        image = axes[2].imshow(fall, cmap="PuOr", vmin=-1, vmax=1, alpha=alpha, aspect=row / column)
        axes[2].set_title(f"Occlusion: it falls by up to {max(0.0, float(fall.max())):.2f}", fontsize=9)
        _bar(figure, image, bars[2], "fall of the probability (below 0: rise)")
    asked = picture_text(heat_map.asked)
    answer = f"{heat_map.flag} (nearest class: {asked}, {heat_map.probability:.2f})" if heat_map.flag else ""
    title = "\n".join(_lines(heat_map.title))
    figure.suptitle(f"{title}\n{answer or f'{asked}, probability {heat_map.probability:.2f}'}", fontsize=10)
    save_figure(figure, path, dpi=110)


def _bar(figure: Any, image: Any, axes: Any, label: str) -> None:
    bar = figure.colorbar(image, cax=axes, orientation="horizontal", ticks=MaxNLocator(4))
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
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
    pictures: Dataset[dict[str, Any]] | None = None,
    transposed: bool = False,
    captions: Sequence[str] = (),
    channel: int = 0,
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
        pictures: the same items with ``image`` uint8 (3, H, W), where the view stretches them to a square: these are
            drawn then, in their own proportions.
        transposed: whether views have rows for columns of these pictures.
        captions: what each example is called, written above it; of a long name the end is shown.
        channel: of a view that is drawn, where no pictures are.
    """
    shown = []
    for example in examples:
        view = dataset[example.index]["image"]
        heat = grad_cam(network, view, example.predicted)
        if pictures is None:
            scale, offset = (np.broadcast_to(np.ravel(values), len(view))[channel] for values in (std, mean))
            picture = np.clip(np.asarray(view[channel]) * scale + offset, 0, 1)
        else:
            picture = np.asarray(pictures[example.index]["image"]).transpose(1, 2, 0) / 255
            heat = on_slice(heat, picture.shape[:2], fitted=False, transposed=transposed)
        shown.append((picture, heat))
    tallest = max(picture.shape[0] / picture.shape[1] for picture, _ in shown)
    figure = Figure(figsize=(0.6 + 2.3 * len(examples), 1.4 + 4.4 * min(2.0, tallest)), layout="constrained")
    panels = figure.subplots(2, len(examples), squeeze=False)
    captions = captions or [""] * len(examples)
    for (upper, lower), example, (picture, heat), caption in zip(panels.T, examples, shown, captions, strict=True):
        upper.imshow(picture, cmap="gray", vmin=0, vmax=1)
        lower.imshow(overlay(picture, heat))
        for axes in (upper, lower):
            axes.set_axis_off()
        names = [picture_text(classes[c]) for c in (example.label, example.predicted)]
        verdict = "right" if example.label == example.predicted else "wrong"
        title = [names[0], f"predicted {names[1]}", f"{example.confidence:.2f}, {verdict}"]
        upper.set_title("\n".join([*title, *_lines(caption)]), fontsize=9)
    figure.colorbar(
        ScalarMappable(cmap=COLOURS),
        ax=panels[1].tolist(),
        shrink=0.8,
        label="for the prediction\n(share of the strongest)",
    )
    figure.suptitle("Grad-CAM: what spoke for the class predicted\n(cells of 32 × 32 pixels of the view)", fontsize=11)
    save_figure(figure, path)


def _lines(caption: str) -> list[str]:
    """A name in lines as wide as a panel."""
    text = plain_text(caption)
    shown = text if len(text) <= 2 * PANEL_WIDTH else f"…{text[1 - 2 * PANEL_WIDTH :]}"
    return [line.replace("$", r"\$") for line in wrap(shown, PANEL_WIDTH)]
