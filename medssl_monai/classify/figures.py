"""Pictures of a classifier's results."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from medssl_monai.drawing import class_styles, picture_text, save_figure
from medssl_monai.statistics.calibration import Reliability

COLUMNS = 4


def draw_confusion_matrix(matrix: npt.NDArray[np.integer[Any]], classes: Sequence[str], path: Path) -> None:
    """Draw counts (truth down, prediction across), coloured by the share of each true class.

    Args:
        matrix: (C, C) counts.
        classes: C names.
        path: PNG to write.
    """
    size = 2.5 + 0.8 * len(classes)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    _draw_counts(axes, matrix, [picture_text(c) for c in classes])
    for text in axes.get_xticklabels():
        text.set(rotation=30, ha="right")
    axes.set_title(f"Confusion matrix, {int(matrix.sum())} slices")
    figure.colorbar(axes.images[0], ax=axes, label="share of the true class", shrink=0.8)
    save_figure(figure, path)


def _draw_counts(axes: Any, matrix: npt.NDArray[np.integer[Any]], names: Sequence[str]) -> None:
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{matrix[row, column]}\n{share[row, column]:.0%}" if totals[row, 0] else "0"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="predicted", ylabel="true")


def draw_roc(
    labels: npt.NDArray[np.integer[Any] | np.bool_],
    probabilities: npt.NDArray[np.floating[Any]],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw one-vs-rest ROC curves of the classes that occur beside another.

    Of two classes that exclude each other only the second is drawn: the first one's curve is its mirror image.

    Args:
        labels: (N,) class indices, or (N, C) what holds of labels that do not exclude each other.
        probabilities: (N, C).
        classes: C names.
        path: PNG to write.
    """
    truth = np.arange(len(classes)) == labels[:, None] if labels.ndim == 1 else labels.astype(bool)
    names = [picture_text(name) for name in classes]
    title = "ROC, one class against the rest" if labels.ndim == 1 else "ROC of each label"
    drawn = list(enumerate(class_styles(len(classes))))
    if labels.ndim == 1 and len(classes) == 2:
        title, drawn = f"ROC, {names[1]} against {names[0]}", drawn[:1]
        truth, probabilities, names = truth[:, 1:], probabilities[:, 1:], names[1:]
    figure = Figure(layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="chance")
    for index, style in drawn:
        holds = truth[:, index]
        if not holds.any() or holds.all():
            continue
        false_rate, true_rate, _ = roc_curve(holds, probabilities[:, index])
        area = roc_auc_score(holds, probabilities[:, index])
        label = f"{names[index]} (AUC {area:.3f}, {int(holds.sum())} slices)"
        axes.plot(false_rate, true_rate, label=label, markevery=0.15, markersize=4, **style)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.grid(alpha=0.3)
    lines, texts = axes.get_legend_handles_labels()
    figure.set_size_inches(5, 5.1 + 0.18 * len(lines))
    figure.legend(lines, texts, loc="outside lower center", fontsize=8)
    save_figure(figure, path)


def draw_reliability(table: Reliability, path: Path) -> None:
    """Draw accuracy against confidence, with the number of slices in each bin below.

    Args:
        table: from `reliability`.
        path: PNG to write.
    """
    figure = Figure(figsize=(5, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    width = float(table.edges[1] - table.edges[0])
    centres, filled = table.edges[:-1] + width / 2, table.count > 0
    upper.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="as sure as right")
    upper.bar(centres[filled], table.accuracy[filled], width * 0.92, color="#0072B2", alpha=0.45, label="share right")
    upper.plot(
        table.confidence[filled], table.accuracy[filled], "o", color="#0072B2", markersize=4, label="mean of a bin"
    )
    upper.set(ylabel="share of slices that are right", xlim=(-0.01, 1.01), ylim=(0, 1.03))
    upper.set_title(f"Reliability, {int(table.count.sum())} slices: calibration error {table.error:.3f}", fontsize=11)
    upper.legend(loc="upper left", fontsize=8)
    upper.grid(alpha=0.3)
    lower.bar(centres, table.count, width * 0.92, color="#999999")
    lower.set(xlabel="confidence: probability of the class predicted", ylabel="slices")
    lower.grid(alpha=0.3)
    save_figure(figure, path)


def draw_label_matrices(by_label: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw for each label how often it was said to hold, by whether it does; coloured by the share of each row.

    Args:
        by_label: name -> `label_figures`.
        path: PNG to write.
    """
    figure, panels = _panels(len(by_label), side=2.6)
    for axes, (name, figures) in zip(panels, by_label.items(), strict=False):
        _draw_counts(axes, np.asarray(figures["confusion_matrix"]), ["no", "yes"])
        axes.set_title(f"{picture_text(name)} (from {figures['threshold']:.2g})", fontsize=10)
    slices = int(np.sum(next(iter(by_label.values()))["confusion_matrix"]))
    figure.suptitle(f"Each label on {slices} slices (threshold)\nshade: share of the row", fontsize=11)
    save_figure(figure, path)


def draw_label_reliability(tables: Mapping[str, Reliability], path: Path) -> None:
    """Draw for each label how often it holds against its probability; dots grow with the number of slices.

    Args:
        tables: name -> from `label_reliability`.
        path: PNG to write.
    """
    figure, panels = _panels(len(tables), side=2.8)
    for axes, (name, table) in zip(panels, tables.items(), strict=False):
        filled = table.count > 0
        sizes = 8 + 80 * table.count[filled] / max(1, table.count.max())
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
        axes.plot(table.confidence[filled], table.accuracy[filled], color="#0072B2", linewidth=0.8)
        axes.scatter(table.confidence[filled], table.accuracy[filled], s=sizes, color="#0072B2")
        axes.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04), xlabel="probability", ylabel="share that holds")
        axes.set_aspect("equal")
        axes.grid(alpha=0.3)
        axes.set_title(f"{picture_text(name)}: error {table.error:.3f}", fontsize=10)
    first = next(iter(tables.values()))
    figure.suptitle(
        f"Reliability on {int(first.count.sum())} slices, in {len(first.count)} bins of probability\n"
        "dashed: as sure as right; error: mean distance from it over the slices",
        fontsize=11,
    )
    save_figure(figure, path)


def _panels(count: int, side: float) -> tuple[Figure, list[Any]]:
    """A figure with so many square panels, at most four a row."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.6, 0.4 + side * columns), 0.9 + side * rows), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for spare in panels[count:]:
        spare.set_axis_off()
    return figure, panels[:count]
