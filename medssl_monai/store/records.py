"""What is written of a series and of each of its slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class SliceRecord(NamedTuple):
    """A slice on its way into the store.

    Attributes:
        pixels: (H, W) int16, canonical orientation.
        z_mm: z of its centre; None where unknown.
        spacing_mm: (row, column); None where unknown.
        slice_spacing_mm: distance to the next; None where unknown.
        window_level, window_width: of the tags, HU; None where there are none.
        flags: words of `verdicts.FLAGS` for this slice alone.
    """

    pixels: NDArray[np.int16]
    z_mm: float | None = None
    spacing_mm: tuple[float, float] | None = None
    slice_spacing_mm: float | None = None
    window_level: float | None = None
    window_width: float | None = None
    flags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class SeriesHeader:
    """What all slices of a series share; the names are those of the index's columns.

    Attributes:
        shape: (slices, H, W).
        affine: 16 numbers, or None where the geometry is unknown.
        shifted_day: of the study, moved by a secret of the patient's; None where no date is known.
    """

    series_id: str
    patient: str
    source_id: str
    modality: str
    plane: str
    shape: tuple[int, int, int]
    body_part: str = ""
    kernel: str = ""
    flags: frozenset[str] = frozenset()
    affine: tuple[float, ...] | None = None
    shifted_day: int | None = None


class Voi(NamedTuple):
    """Windows and tables of an image.

    Attributes:
        windows: (WindowCenter, WindowWidth) of each, HU for CT, in the order of the tags.
        function: VOILUTFunction, LINEAR where the tag is missing or unknown (PS3.3 C.11.2.1.3).
        tables: of each item of a VOI LUT sequence its LUTDescriptor: entries, first value mapped, bits an entry.
    """

    windows: tuple[tuple[float, float], ...] = ()
    function: str = "LINEAR"
    tables: tuple[tuple[int, int, int], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return self._asdict()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Voi:
        """The inverse of `to_json`."""
        windows = tuple((float(level), float(width)) for level, width in values["windows"])
        tables = tuple((int(entries), int(first), int(bits)) for entries, first, bits in values["tables"])
        return cls(windows, str(values["function"]), tables)
