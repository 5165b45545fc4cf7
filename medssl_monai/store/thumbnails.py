"""A series at a glance, inside a page: its middle slice and a histogram of its values."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.store.reader import SliceStore

SAMPLED_SLICES = 12
PICTURE_SIDE = 132
CT_WINDOW = (40.0, 400.0)
HU_RANGE = (-1024.0, 1976.0)
BINS = 60


def sample(store: SliceStore, rows: Sequence[dict[str, Any]]) -> list[NDArray[np.int16]]:
    """Evenly spaced slices; the middle one is the middle of the series."""
    numbers = np.unique(np.linspace(0, len(rows) - 1, SAMPLED_SLICES + 1).round().astype(int))
    return [store.read(rows[0]["series_id"], int(number)) for number in numbers]


def picture(pixels: NDArray[np.int16], row: dict[str, Any]) -> str:
    """The slice in its window and proportions, as an image inside the page."""
    import cv2

    if row["modality"] == "CT":
        level, width = CT_WINDOW
        low, high = level - width / 2, level + width / 2
    else:
        low, high = (float(value) for value in np.percentile(pixels, (1, 99)))
    grey = np.clip((pixels.astype(np.float32) - low) / max(high - low, 1) * 255, 0, 255).astype(np.uint8)
    small = in_proportion(grey, row, PICTURE_SIDE)
    height, columns = small.shape
    encoded = base64.b64encode(cv2.imencode(".png", small)[1].tobytes()).decode("ascii")
    return f'<img alt="middle slice" width="{columns}" height="{height}" src="data:image/png;base64,{encoded}">'


def in_proportion(grey: NDArray[np.uint8], row: Mapping[str, Any], side: int) -> NDArray[np.uint8]:
    """A slice (H, W) with square pixels, its longer side of ``side`` pixels; the spacings are those of its row."""
    import cv2

    height_mm = grey.shape[0] * (row["spacing_row_mm"] or 1.0)
    width_mm = grey.shape[1] * (row["spacing_column_mm"] or 1.0)
    scale = side / max(height_mm, width_mm)
    size = max(1, round(width_mm * scale)), max(1, round(height_mm * scale))
    shrinks = size[0] <= grey.shape[1] and size[1] <= grey.shape[0]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.uint8)


def histogram(slices: Sequence[NDArray[np.int16]], modality: str) -> str:
    """Of the values inside the field of view; heights are square roots of counts, so that small organs show."""
    values = np.concatenate([one.reshape(-1)[::3] for one in slices])
    low, high = HU_RANGE if modality == "CT" else (float(values.min()), float(max(values.max(), values.min() + 1)))
    inside = values[values > low] if modality == "CT" else values
    counts, _ = np.histogram(np.clip(inside, low, high), bins=BINS, range=(low, high))
    heights = np.sqrt(counts / max(1, counts.max())) * 96
    step = 232 / BINS
    bars = "".join(
        f"M{i * step:.1f} 110V{110 - bar:.1f}h{step:.1f}V110z" for i, bar in enumerate(heights) if bar >= 0.5
    )
    marks = (-1000, 0, 1000) if modality == "CT" else (low, high)
    texts = ""
    for mark in marks:
        x = (mark - low) / (high - low) * 232
        anchor = "start" if x < 20 else "end" if x > 212 else "middle"
        texts += f'<text x="{x:.0f}" y="124" text-anchor="{anchor}">{mark:.0f}</text>'
    unit = "HU" if modality == "CT" else "stored values"
    texts += f'<text x="230" y="10" text-anchor="end">{unit}</text>'
    return (
        f'<svg width="232" height="130" role="img" aria-label="histogram of {unit}"><path d="{bars}"/>'
        f'<line x1="0" x2="232" y1="110.5" y2="110.5"/>{texts}</svg>'
    )
