"""A data set of pictures as sets for an audit: hashes and digests of its pictures, and facts of its files."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.atomic import file_sha256
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import Bytes, ImageFiles, PictureHeader
from medssl_monai.labels.audit_sets import Audited, AuditSet
from medssl_monai.labels.table import SEPARATOR
from medssl_monai.store.measures import perceptual_hash

LEAST_SIDE = 64
"""Pixels: the hash is made of 32 x 32 averages, and was tried on whole slices; smaller pictures are only compared for
equality."""

LEAST_SPREAD = 2.0
"""Standard deviation of grey values, of 255: flatter pictures show nothing."""


class PicturePixels:
    """Grey values (H, W) of a data set's pictures, by their names."""

    def __init__(self, data: ImageData) -> None:
        self._images = data.images
        self._places = {data.file_of(place): place for places in data.splits.values() for place in places}

    def read(self, series_id: str, _: int, /) -> npt.NDArray[np.int16]:
        """The picture of that name."""
        return grey(self._images[self._places[series_id]])


def picture_sets(data: ImageData, origin: str | None = None) -> list[AuditSet]:
    """The splits of a data set that hold pictures.

    Args:
        data: of `image_task`.
        origin: what the data set is called; by default its own name.

    Raises:
        LabelError: a picture cannot be read.
    """
    origin = origin or data.name
    headers = data.images.headers() if isinstance(data.images, ImageFiles) else None
    pixels = PicturePixels(data)
    sets = []
    for split, places in data.splits.items():
        items = [_audited(data, place, headers[place] if headers else None) for place in places]
        names = {item.series_id: f"{origin} {item.patient or item.series_id}" for item in items}
        if items:
            sets.append(AuditSet(split, split, origin, pixels, items, names, origin))
    return sets


def _audited(data: ImageData, place: int, header: PictureHeader | None) -> Audited:
    picture: Bytes = data.images[place]
    values = grey(picture)
    held = data.label(place)
    numbers = np.flatnonzero(held) if isinstance(held, np.ndarray) else [held]
    coloured = picture.ndim == 3 and bool((picture[..., :3] != picture[..., :1]).any())
    return Audited(
        series_id=data.file_of(place),
        slice=0,
        patient=data.patients[place],
        unknown=not data.patients[place],
        label=SEPARATOR.join(data.classes[number] for number in numbers) or SEPARATOR,
        phash=int(perceptual_hash(values, "OT"), 16),
        modality="OT",
        comparable=min(values.shape) >= LEAST_SIDE and float(values.std()) > LEAST_SPREAD,
        digests=(file_sha256(_path(data, place)) if header else "", _digest(picture)),
        facts=_facts(header, coloured) if header else {},
    )


def _path(data: ImageData, place: int) -> Path:
    assert isinstance(data.images, ImageFiles)
    return data.images.paths[place]


def _facts(header: PictureHeader, coloured: bool) -> dict[str, str]:
    area = header.width * header.height
    return {
        "format": header.format,
        "colour mode": header.mode,
        "colour": "coloured" if coloured else "grey",
        "size": f"{header.width} x {header.height}",
        "number of pixels": f"{4 ** round(np.log2(area) / 2)} or so",  # to a factor of two
    }


def grey(picture: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """(H, W) from (H, W) or (H, W, channels): the mean of the colours, which of a grey picture are equal."""
    values = picture if picture.ndim == 2 else picture[..., :3].mean(axis=2).round()
    return values.astype(np.int16)


def _digest(picture: npt.NDArray[Any]) -> str:
    """SHA-256 of shape and pixels; the same of a grey picture and of its copy in three channels."""
    colours = np.broadcast_to(np.atleast_3d(picture)[..., :3], (*picture.shape[:2], 3))
    return hashlib.sha256(f"{colours.shape}".encode() + colours.tobytes()).hexdigest()
