"""What the tags of an image propose for showing it (PS3.3 C.11.2): kept as data, never burned in."""

from __future__ import annotations

import math
from typing import Any

from medssl_monai.ingest.dicom.fast_header import PlainHeader
from medssl_monai.ingest.dicom.tags import quiet, text, texts
from medssl_monai.store.records import Voi

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


def read_voi(dataset: Any) -> Voi:
    """The windows and tables of a header; none where there are none that can be used.

    Widths are at least 1, or above 0 where the function is not LINEAR (PS3.3 C.11.2.1.2.1, C.11.2.1.3.2).
    """
    named = text(dataset, "VOILUTFunction").upper()
    function = named if named in FUNCTIONS else "LINEAR"
    pairs = zip(_floats(dataset, "WindowCenter"), _floats(dataset, "WindowWidth"), strict=False)
    windows = tuple(
        (level, width)
        for level, width in pairs
        if math.isfinite(level) and math.isfinite(width) and (width >= 1 or (width > 0 and function != "LINEAR"))
    )
    return Voi(windows, function, _tables(dataset))


def _floats(dataset: Any, keyword: str) -> list[float]:
    """All values; NaN for what is no number."""
    found = []
    for one in texts(dataset, keyword):
        try:
            found.append(float(one))
        except ValueError:
            found.append(math.nan)
    return found


def _tables(dataset: Any) -> tuple[tuple[int, int, int], ...]:
    if isinstance(dataset, PlainHeader):  # which has no sequences
        return ()
    with quiet():
        try:
            items = [tuple(int(one) for one in item.LUTDescriptor) for item in dataset.get("VOILUTSequence") or ()]
        except Exception:  # what a broken sequence raises varies with the damage
            return ()
    return tuple((one[0], one[1], one[2]) for one in items if len(one) == 3)
