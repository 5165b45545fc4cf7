"""Pictures of what a store holds: one row of evenly spaced slices a series."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from medssl_monai.atomic import write_atomically
from medssl_monai.drawing import picture_text
from medssl_monai.errors import InputError
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.verdicts import Outcome, Verdict

TILE_INCHES = 1.25
TITLE_INCHES = 0.3
MARGIN_INCHES = 0.1
BACKGROUND, FOREGROUND, QUIET, WARNING = "#101418", "#f0f2f4", "#93a1ad", "#f0a63c"


def contact_sheet(
    store: SliceStore,
    path: Path,
    *,
    columns: int = 8,
    window: tuple[float, float] = (40.0, 400.0),
    page_series: int = 40,
    dpi: int = 120,
) -> list[Path]:
    """Draws all series of a store as PNGs: one row a series, inferior to superior from left to right.

    Series that were rejected come first, as a line of text that says why; then the repaired ones; then those with the
    most flags. What does not fit on the first page goes on in ``NAME.page2.png`` and so on. Pages of an earlier, longer
    sheet are removed.

    Args:
        store: what to draw.
        path: the PNG; its folder is made.
        columns: slices a series; shorter series show all they have. Proportions are true.
        window: (level, width) in HU for CT. Other modalities go from the 1st to the 99th percentile of the series.
        page_series: rows a page, lines of rejected series included.
        dpi: dots an inch; a tile is 1.25 inches wide.

    Returns:
        The pages.

    Raises:
        InputError: columns or page_series below 1, or the window's width is not positive.
    """
    if columns < 1 or page_series < 1 or window[1] <= 0:
        raise InputError(
            f"contact sheet: columns, page_series and the window's width must be positive, found {columns}, "
            f"{page_series} and {window[1]}; correct them"
        )
    path = Path(path)
    rejected = [one for one in store.verdicts if one.outcome is Outcome.REJECTED and one.kind == "series"]
    series = _series_in_order(store)
    entries: list[Verdict | list[dict[str, Any]]] = [*sorted(rejected, key=lambda one: one.subject), *series]
    contents = [entries[i : i + page_series] for i in range(0, max(1, len(entries)), page_series)]
    stem = re.escape(path.stem)
    for old in path.parent.glob("*.page*") if path.parent.is_dir() else ():
        if re.fullmatch(rf"{stem}\.page\d+{re.escape(path.suffix)}", old.name):
            old.unlink()
    pages = []
    for number, content in enumerate(contents, start=1):
        pages.append(path if number == 1 else path.with_name(f"{path.stem}.page{number}{path.suffix}"))
        head = f"{len(series)} series, {len(rejected)} rejected" + ("" if number > 1 else "; flagged ones first")
        head += f"; page {number} of {len(contents)}" if len(contents) > 1 else ""
        _draw_page(store, content, head, pages[-1], columns, window, dpi)
    return pages


def _series_in_order(store: SliceStore) -> list[list[dict[str, Any]]]:
    """Rows of each series: the repaired first, then those with the most flags."""
    repaired = {one.series_id for one in store.verdicts if one.outcome is Outcome.REPAIRED}
    return sorted(store.each_series(), key=lambda rows: (rows[0]["series_id"] not in repaired, -len(_flags(rows))))


def _flags(rows: list[dict[str, Any]]) -> list[str]:
    return sorted({flag.replace("_", " ") for one in rows for flag in one["flags"].split(",") if flag})


def _draw_page(
    store: SliceStore,
    entries: Sequence[Verdict | list[dict[str, Any]]],
    head: str,
    path: Path,
    columns: int,
    window: tuple[float, float],
    dpi: int,
) -> None:
    lines = [TITLE_INCHES + TILE_INCHES * (not isinstance(one, Verdict)) for one in entries]
    width, height = columns * TILE_INCHES + 2 * MARGIN_INCHES, TITLE_INCHES + sum(lines) + MARGIN_INCHES
    figure = Figure(figsize=(width, height), dpi=dpi, facecolor=BACKGROUND)
    FigureCanvasAgg(figure)
    _write(figure, "", [(head, QUIET)], height)
    top = height - TITLE_INCHES
    for entry, line in zip(entries, lines, strict=True):
        if isinstance(entry, Verdict):
            reason = entry.reason.value if entry.reason else ""
            _write(figure, entry.subject, [(f"rejected: {reason}", WARNING), (entry.detail, QUIET)], top)
        else:
            _write(figure, entry[0]["series_id"], [(", ".join(_flags(entry)), WARNING), (_facts(entry), QUIET)], top)
            _draw_series(figure, store, entry, top - TITLE_INCHES, columns, window)
        top -= line
    # No creation date or version: the same store gives the same picture.
    metadata = {"Software": None}
    write_atomically(path, lambda p: figure.savefig(p, format="png", facecolor=BACKGROUND, metadata=metadata))


def _facts(rows: list[dict[str, Any]]) -> str:
    """What describes a series."""
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
    ]
    return "   ".join(fact for fact in facts if fact)


def _write(figure: Figure, subject: str, words: Sequence[tuple[str, str]], top: float) -> None:
    """A line: the series id, then words in their colours, as far as they fit."""
    width, height = figure.get_size_inches()
    x, y = MARGIN_INCHES, (top - TITLE_INCHES / 2) / height
    for text, colour, inches in [(subject, FOREGROUND, 0.075), *((*one, 0.066) for one in words)]:
        if not text:
            continue
        room = int((width - x) / inches)
        family = "monospace" if text is subject else None
        shown = picture_text(text, max(1, room))
        drawn = figure.text(x / width, y, shown, color=colour, fontsize=8, family=family, va="center")
        x += drawn.get_window_extent().width / figure.dpi + 0.15


def _draw_series(
    figure: Figure,
    store: SliceStore,
    rows: list[dict[str, Any]],
    top: float,
    columns: int,
    window: tuple[float, float],
) -> None:
    """The slices, each in a square tile, with its number in a corner."""
    numbers = np.unique(np.linspace(0, len(rows) - 1, columns).round().astype(int))
    images = [store.read(rows[0]["series_id"], int(number)) for number in numbers]
    lowest, highest = _limits(rows[0]["modality"], images, window)
    aspect = (rows[0]["spacing_row_mm"] or 1.0) / (rows[0]["spacing_column_mm"] or 1.0)
    width, height = figure.get_size_inches()
    for column, (number, image) in enumerate(zip(numbers, images, strict=True)):
        box = (
            (MARGIN_INCHES + column * TILE_INCHES + 0.02) / width,
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
