"""The images behind the slices of a prediction, noted while ingestion reads them.

A store knows them only by keyed hashes, and members of archives are gone when ingestion has ended.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.ingest.dicom.plan import DicomPlan
from medssl_monai.ingest.dicom.tags import reading
from medssl_monai.ingest.write_series import Plan

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceImage:
    """The image behind a slice.

    Attributes:
        header: the whole header, with the patient's identity, without pixels.
        frame: its number in an enhanced object, from 1; None for an object that is one image.
    """

    header: Any
    frame: int | None


class Sources:
    """The images of the series of an ingestion; `note` is given to `build_store`."""

    def __init__(self) -> None:
        self._instances: dict[str, Sequence[Instance]] = {}
        self._headers: dict[Path, Any] = {}

    def note(self, plan: Plan) -> None:
        """Keep the headers of a series' images."""
        instances = plan.instances if isinstance(plan, DicomPlan) else ()
        self._instances[plan.series_id] = instances
        for content in {instance.content for instance in instances} - self._headers.keys():
            try:
                with reading():
                    self._headers[content] = pydicom.dcmread(content, stop_before_pixels=True)
            except Exception as error:  # whatever pydicom meets in a broken file
                logger.warning("series %s: a header cannot be read (%s)", plan.series_id, type(error).__name__)

    def image(self, row: dict[str, Any]) -> SourceImage | None:
        """The image behind a slice of the index; None where it is not DICOM, or its header is not kept."""
        instance = _nearest(self._instances.get(row["series_id"], ()), row)
        if instance is None or instance.content not in self._headers:
            return None
        return SourceImage(self._headers[instance.content], None if instance.frame is None else instance.frame + 1)


def _nearest(instances: Sequence[Instance], row: dict[str, Any]) -> Instance | None:
    """The image at a slice's height; where there are no heights, the one at its place by number."""
    if not instances:
        return None
    if row["z_mm"] is None or any(one.centre_z_mm is None for one in instances):
        ordered = sorted(instances, key=lambda one: (one.number or 0, one.frame or 0))
        return ordered[row["slice"]] if row["slice"] < len(ordered) else None
    closest = min(instances, key=lambda one: abs((one.centre_z_mm or 0.0) - row["z_mm"]))
    return closest if abs((closest.centre_z_mm or 0.0) - row["z_mm"]) < 0.01 else None
