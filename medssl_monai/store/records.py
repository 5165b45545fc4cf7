"""What is written of a series and of each of its slices, and what its parquet part remembers beside its rows."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from medssl_monai.atomic import file_sha256
from medssl_monai.store.schema import SCHEMA_VERSION, check_version
from medssl_monai.store.verdicts import Verdict

NOTE_KEY = b"medssl"
"""Under this key of the parquet schema's metadata stands a series' note."""


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


@dataclass(frozen=True)
class SeriesNote:
    """What a part remembers beside its rows, so that a later run knows what it may skip.

    Attributes:
        instances: pseudonyms of the images that are stored and of their copies, sorted.
        verdicts: on the series, and on files of it that had to be left out.
        key_check: see `pseudonyms.key_check`.
        array_sha256: of the series' b2nd file; empty until written.
        undecodable: `broken_id` of each image that could not be decoded, sorted.
        voi: what the tags propose for showing the slices, each with the first slice from which on it holds.
        patient: pseudonym, of a volume file or picture, which may be ingested again under another; else empty.
    """

    instances: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    key_check: str
    array_sha256: str = ""
    undecodable: tuple[str, ...] = ()
    voi: tuple[tuple[int, Voi], ...] = ()
    patient: str = ""

    def voi_of(self, slice: int) -> Voi:
        """All windows of a slice's tags, their function, and its VOI LUTs."""
        return next((voi for first, voi in reversed(self.voi) if first <= slice), Voi())

    def to_bytes(self) -> bytes:
        """As JSON."""
        verdicts = [verdict.to_json() for verdict in self.verdicts]
        values = {**self.__dict__, "schema_version": SCHEMA_VERSION, "verdicts": verdicts}
        values["voi"] = [[first, voi.to_json()] for first, voi in self.voi]
        return json.dumps(values, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> SeriesNote:
        """The inverse of `to_bytes`."""
        values = json.loads(content)
        verdicts = tuple(Verdict.from_json(verdict) for verdict in values["verdicts"])
        # Stores of version 2 had neither of these at first.
        undecodable = tuple(values.get("undecodable", ()))
        voi = tuple((int(first), Voi.from_json(one)) for first, one in values.get("voi", ()))
        return cls(
            tuple(values["instances"]),
            verdicts,
            values["key_check"],
            values["array_sha256"],
            undecodable,
            voi,
            values.get("patient", ""),
        )


def broken_id(own_id: str, content: Path) -> str:
    """Tells a file with a broken image from the same image in another file, so that a mended one is read.

    Args:
        own_id: the image's pseudonym.
        content: the file that holds its bytes.
    """
    return hashlib.sha256(f"{own_id} {file_sha256(content)}".encode()).hexdigest()[:32]


def read_note(part: Path) -> SeriesNote:
    """The note in a parquet part.

    Raises:
        StoreError: another version of the program wrote it.
    """
    content = pq.read_schema(part).metadata[NOTE_KEY]
    check_version(part.parents[1], json.loads(content).get("schema_version", 1))
    return SeriesNote.from_bytes(content)
