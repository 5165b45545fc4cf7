"""Finds series of one slice each that would be one stack, if they had one SeriesInstanceUID.

Some anonymisers and converters give every file a UID of its own. Nothing proves then that the slices belong together.
They stay apart, and the summary of the run says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from medssl_monai.ingest.dicom.plan import OFF_LINE_MM, DicomPlan
from medssl_monai.ingest.dicom.stacks import SAME_POSITION_MM
from medssl_monai.ingest.geometry import classify_spacing, off_line_mm
from medssl_monai.ingest.write_series import Plan

FEWEST = 3
"""Slices of which it can be said that they are evenly spaced."""


class SingleSlices:
    """Positions of series of one slice, by folder and by what the slices of one stack share."""

    def __init__(self) -> None:
        self._positions: dict[tuple[object, ...], list[tuple[float, ...]]] = defaultdict(list)

    def note(self, plans: Sequence[Plan]) -> None:
        """Keep the plans of one SeriesInstanceUID if they are one slice."""
        if len(plans) != 1 or not isinstance(plans[0], DicomPlan) or len(plans[0].instances) != 1:
            return
        plan, (image,) = plans[0], plans[0].instances
        if image.position is None or image.orientation is None:
            return
        _, date, number, _ = image.entities  # without the UIDs, which may differ in each slice too
        shared = (image.patient_id, image.modality, image.shape, date, number, image.kernel)
        grid = (tuple(round(cosine, 2) for cosine in image.orientation), image.spacing_mm)
        self._positions[(plan.source_id, *shared, *grid)].append(image.position)

    def statements(self) -> Iterator[str]:
        """A sentence for each folder with such slices, by the folder's pseudonym."""
        for (source, *_, orientation, _), positions in sorted(self._positions.items(), key=str):
            if len(positions) >= FEWEST and _is_one_stack(positions, orientation):
                yield (
                    f"one_slice_each: {len(positions)} series in the folder {source} have one slice each and would be "
                    "one stack; their SeriesInstanceUID differs in every slice, so they stay apart; give them one "
                    "SeriesInstanceUID if they belong together"
                )


def _is_one_stack(positions: Iterable[tuple[float, ...]], orientation: object) -> bool:
    """Whether slices lie one above another on a line, at even distances."""
    cosines = np.asarray(orientation, np.float64)
    places = np.asarray(list(positions), np.float64)
    depths = places @ np.cross(cosines[:3], cosines[3:])
    order = np.argsort(depths)
    depths, places = depths[order], places[order]
    apart = bool((np.diff(depths) > SAME_POSITION_MM).all())
    return apart and not classify_spacing(depths.tolist()) and off_line_mm(places, depths) <= OFF_LINE_MM
