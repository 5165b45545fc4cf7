"""Pictures of a classifier's results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score, roc_curve

from medssl_monai.atomic import write_atomically
from medssl_monai.statistics.calibration import Reliability

__all__ = ["draw_confusion_matrix", "draw_reliability", "draw_roc"]


def draw_confusion_matrix(matrix: npt.NDArray[np.integer[Any]], classes: Sequence[str], path: Path) -> None:
    """Draw counts (truth down, prediction across), coloured by the share of each true class.

    Args:
        matrix: (C, C) counts.
        classes: C names.
        path: PNG to write.
    """
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    size = 2.5 + 0.8 * len(classes)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        text = f"{matrix[row, column]}\n{share[row, column]:.0%}" if totals[row, 0] else "0"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    names = [c.replace("_", " ") for c in classes]
    axes.set_xticks(range(len(classes)), names, rotation=30, ha="right")
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="predicted", ylabel="true", title=f"Confusion matrix, {int(matrix.sum())} slices")
    figure.colorbar(image, ax=axes, label="share of the true class", shrink=0.8)
    write_atomically(path, lambda p: figure.savefig(p, dpi=120))


def draw_roc(
    labels: npt.NDArray[np.integer[Any] | np.bool_],
    probabilities: npt.NDArray[np.floating[Any]],
    classes: Sequence[str],
    path: Path,
) -> None:
    """Draw one-vs-rest ROC curves of the classes that occur beside another.

    Args:
        labels: (N,) class indices, or (N, C) what holds of labels that do not exclude each other.
        probabilities: (N, C).
        classes: C names.
        path: PNG to write.
    """
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--", label="chance")
    for index, name in enumerate(classes):
        truth = labels == index if labels.ndim == 1 else labels[:, index].astype(bool)
        if not truth.any() or truth.all():
            continue
        false_rate, true_rate, _ = roc_curve(truth, probabilities[:, index])
        area = roc_auc_score(truth, probabilities[:, index])
        axes.plot(false_rate, true_rate, label=f"{name.replace('_', ' ')} (AUC {area:.3f}, {int(truth.sum())} slices)")
    axes.set(
        xlabel="false positive rate",
        ylabel="true positive rate",
        title="ROC, one class against the rest" if labels.ndim == 1 else "ROC of each label",
    )
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    write_atomically(path, lambda p: figure.savefig(p, dpi=120))


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
    write_atomically(path, lambda p: figure.savefig(p, dpi=120))
