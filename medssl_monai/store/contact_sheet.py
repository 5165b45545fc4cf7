"""A picture of what a store holds: one row of evenly spaced slices a series."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medssl_monai.errors import InputError
from medssl_monai.store.reader import SliceStore

TILE_INCHES = 1.25
TITLE_INCHES = 0.3
BACKGROUND, FOREGROUND, QUIET = "#101418", "#f0f2f4", "#93a1ad"


def contact_sheet(
    store: SliceStore,
    path: Path,
    *,
    columns: int = 8,
    window: tuple[float, float] = (40.0, 400.0),
    max_series: int = 40,
    dpi: int = 120,
) -> Path:
    """Draws a PNG with one row a series, inferior to superior from left to right, in true proportions.

    Args:
        store: what to draw.
        path: the PNG; its folder is made.
        columns: slices a series; shorter series show all they have.
        window: (level, width) in HU for CT. Other modalities go from the 1st to the 99th percentile of the series.
        max_series: rows drawn at most; what is left out is said below them.
        dpi: dots an inch; a tile is 1.25 inches wide.

    Returns:
        The path.

    Raises:
        InputError: columns or max_series below 1, or the window's width is not positive.
    """
    if columns < 1 or max_series < 1 or window[1] <= 0:
        raise InputError(
            f"contact sheet: columns, max_series and the window's width must be positive, found {columns}, "
            f"{max_series} and {window[1]}; correct them"
        )
    everything = _rows_by_series(store)
    shown = dict(list(everything.items())[:max_series])
    footer = f"{len(everything) - len(shown)} further series not shown" if len(everything) > len(shown) else ""
    height = len(shown) * (TILE_INCHES + TITLE_INCHES) + 0.15 + 0.25 * bool(footer)
    width = columns * TILE_INCHES + 0.2
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    for number, (series_id, rows) in enumerate(shown.items()):
        top = height - 0.05 - number * (TILE_INCHES + TITLE_INCHES)
        _draw_title(figure, rows, top, (width, height))
        _draw_series(figure, store, series_id, rows, top - TITLE_INCHES, (width, height), columns, window)
    if footer:
        figure.text(0.1 / width, 0.12 / height, footer, color=QUIET, fontsize=8)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # No creation date or version: the same store gives the same picture.
    figure.savefig(path, format="png", facecolor=BACKGROUND, metadata={"Software": None})
    return path


def _rows_by_series(store: SliceStore) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in store.select():
        grouped.setdefault(row["series_id"], []).append(row)
    return grouped


def _draw_title(figure: Figure, rows: list[dict[str, Any]], top: float, size: tuple[float, float]) -> None:
    """The series id, and what describes the series."""
    row = rows[0]
    spacings = (row["spacing_row_mm"], row["spacing_column_mm"], row["slice_spacing_mm"])
    facts = [
        row["modality"],
        row["plane"],
        f"{len(rows)} slice{'s' * (len(rows) > 1)}",
        f"{row['rows']} × {row['columns']}",
        " × ".join("?" if spacing is None else f"{spacing:.3g}" for spacing in spacings) + " mm",
        row["body_part"],
        row["kernel"],
        ", ".join(sorted({flag for one in rows for flag in one["flags"].split(",") if flag})).replace("_", " "),
    ]
    width, height = size
    y = (top - TITLE_INCHES / 2) / height
    figure.text(0.1 / width, y, row["series_id"], color=FOREGROUND, fontsize=8, family="monospace", va="center")
    figure.text(
        (0.2 + 0.07 * len(row["series_id"])) / width,
        y,
        "   ".join(fact for fact in facts if fact),
        color=QUIET,
        fontsize=8,
        va="center",
    )


def _draw_series(
    figure: Figure,
    store: SliceStore,
    series_id: str,
    rows: list[dict[str, Any]],
    top: float,
    size: tuple[float, float],
    columns: int,
    window: tuple[float, float],
) -> None:
    """The slices, each in a square tile, with its number in a corner."""
    numbers = np.unique(np.linspace(0, len(rows) - 1, columns).round().astype(int))
    images = [store.read(series_id, int(number)) for number in numbers]
    lowest, highest = _limits(rows[0]["modality"], images, window)
    aspect = (rows[0]["spacing_row_mm"] or 1.0) / (rows[0]["spacing_column_mm"] or 1.0)
    width, height = size
    for column, (number, image) in enumerate(zip(numbers, images, strict=True)):
        box = (
            (0.1 + column * TILE_INCHES + 0.02) / width,
            (top - TILE_INCHES + 0.02) / height,
            (TILE_INCHES - 0.04) / width,
            (TILE_INCHES - 0.04) / height,
        )
        axes = figure.add_axes(box)
        axes.set_axis_off()
        axes.imshow(
            image, cmap="gray", vmin=lowest, vmax=highest, aspect=aspect, interpolation="antialiased", rasterized=True
        )
        axes.text(
            0.03, 0.04, str(number), transform=axes.transAxes, color=FOREGROUND, fontsize=6, va="bottom", alpha=0.8
        )


def _limits(modality: str, images: list[NDArray[np.int16]], window: tuple[float, float]) -> tuple[float, float]:
    if modality == "CT":
        return window[0] - window[1] / 2, window[0] + window[1] / 2
    values = np.concatenate([image.reshape(-1)[::7] for image in images])
    lowest, highest = (float(value) for value in np.percentile(values, (1, 99)))
    return lowest, max(highest, lowest + 1)
