"""The DICOM images that the slices of a prediction came from, found again among the files that were given.

A store knows them by keyed hashes alone; whoever has the files and the key can tell which they are.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from medssl_monai.classify.inputs import PredictionInput
from medssl_monai.ingest.dicom.header import read_frames, sniff_dicom
from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.ingest.dicom.tags import reading
from medssl_monai.ingest.scan import find_files
from medssl_monai.ingest.sources.archives import unpacked
from medssl_monai.store.pseudonyms import load_key, pseudonym
from medssl_monai.store.verdicts import RejectedError


@dataclass(frozen=True)
class SourceImage:
    """The image behind a slice.

    Attributes:
        header: the whole header, with the patient's identity, without pixels.
        frame: its number in an enhanced object, from 1; None for an object that is one image.
    """

    header: Any
    frame: int | None


@contextmanager
def source_images(
    sources: Sequence[Path], given: PredictionInput, folder: Path, key: bytes | None = None
) -> Iterator[dict[tuple[str, int], SourceImage]]:
    """Of each classified slice that came from DICOM, by (series id, slice), its image.

    Args:
        sources: what was given for prediction.
        given: what was classified.
        folder: where archives may be unpacked meanwhile.
        key: of the pseudonyms; by default the user's own.
    """
    key = load_key() if key is None else key
    owner = {
        instance: series_id
        for series_id in {row["series_id"] for row in given.rows}
        for instance in given.store.note(series_id).instances
    }
    with unpacked(find_files(sources), folder) as (files, _):
        found: dict[str, list[Instance]] = {}
        for file in files:
            for instance in _frames(file.path, file.content):
                series_id = owner.get(pseudonym(key, "instance", instance.identity))
                if series_id is not None:
                    found.setdefault(series_id, []).append(instance)
        headers: dict[Path, Any] = {}
        images = {}
        for row in given.rows:
            image = _nearest(found.get(row["series_id"], []), row)
            if image is None:
                continue
            if image.content not in headers:
                with reading():
                    headers[image.content] = pydicom.dcmread(image.content, stop_before_pixels=True)
            frame = None if image.frame is None else image.frame + 1
            images[row["series_id"], int(row["slice"])] = SourceImage(headers[image.content], frame)
        yield images


def _frames(path: Path, content: Path) -> list[Instance]:
    try:
        with content.open("rb") as opened:
            if not sniff_dicom(opened.read(132)):
                return []
        return read_frames(path, content)
    except (OSError, RejectedError):  # what cannot be read was not classified either
        return []


def _nearest(instances: Sequence[Instance], row: dict[str, Any]) -> Instance | None:
    """The image at a slice's height; where there are no heights, the one at its place by number."""
    if not instances:
        return None
    if row["z_mm"] is None or any(one.centre_z_mm is None for one in instances):
        ordered = sorted(instances, key=lambda one: (one.number or 0, one.frame or 0))
        return ordered[row["slice"]] if row["slice"] < len(ordered) else None
    closest = min(instances, key=lambda one: abs((one.centre_z_mm or 0.0) - row["z_mm"]))
    return closest if abs((closest.centre_z_mm or 0.0) - row["z_mm"]) < 0.01 else None
