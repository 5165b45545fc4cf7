"""Pictures of results where several labels may hold at once: a small panel a label."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from medssl_monai.atomic import write_atomically
from medssl_monai.statistics.calibration import Reliability

__all__ = ["draw_label_matrices", "draw_label_reliability"]

COLUMNS = 4


def draw_label_matrices(by_label: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw for each label how often it was said to hold, by whether it does; coloured by the share of each row.

    Args:
        by_label: name -> `label_figures`.
        path: PNG to write.
    """
    figure, panels = _panels(len(by_label), side=2.6)
    for axes, (name, figures) in zip(panels, by_label.items(), strict=False):
        matrix = np.asarray(figures["confusion_matrix"])
        totals = matrix.sum(axis=1, keepdims=True)
        share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for row, column in np.ndindex(2, 2):
            colour = "white" if share[row, column] > 0.5 else "black"
            text = f"{matrix[row, column]}\n{share[row, column]:.0%}" if totals[row, 0] else "0"
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
        axes.set_xticks([0, 1], ["no", "yes"])
        axes.set_yticks([0, 1], ["no", "yes"])
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(f"{name.replace('_', ' ')} (from {figures['threshold']:.2g})", fontsize=10)
    slices = int(np.sum(next(iter(by_label.values()))["confusion_matrix"]))
    figure.suptitle(f"Each label on {slices} slices (threshold)\nshade: share of the row", fontsize=11)
    write_atomically(path, lambda p: figure.savefig(p, dpi=120))


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
        axes.set_title(f"{name.replace('_', ' ')}: error {table.error:.3f}", fontsize=10)
    first = next(iter(tables.values()))
    figure.suptitle(
        f"Reliability on {int(first.count.sum())} slices, in {len(first.count)} bins of probability\n"
        "dashed: as sure as right; error: mean distance from it over the slices",
        fontsize=11,
    )
    write_atomically(path, lambda p: figure.savefig(p, dpi=120))


def _panels(count: int, side: float) -> tuple[Figure, list[Any]]:
    """A figure with so many square panels, at most four a row."""
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(4.6, 0.4 + side * columns), 0.9 + side * rows), layout="constrained")
    panels = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for spare in panels[count:]:
        spare.set_axis_off()
    return figure, panels[:count]
