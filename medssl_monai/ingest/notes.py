"""What a series' parquet part remembers beside its rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from medssl_monai.ingest.schema import SCHEMA_VERSION, check_version
from medssl_monai.ingest.verdicts import Verdict

__all__ = ["NOTE_KEY", "SeriesNote", "read_note"]

NOTE_KEY = b"medssl"
"""Under this key of the parquet schema's metadata."""


@dataclass(frozen=True)
class SeriesNote:
    """What a part remembers beside its rows, so that a later run knows what it may skip.

    Attributes:
        instances: pseudonyms of the images that were considered, sorted.
        verdicts: on the series, and on files of it that had to be left out.
        key_check: see `pseudonyms.key_check`.
        array_sha256: of the series' b2nd file; empty until written.
    """

    instances: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    key_check: str
    array_sha256: str = ""

    def to_bytes(self) -> bytes:
        """As JSON."""
        verdicts = [verdict.to_json() for verdict in self.verdicts]
        values = {**self.__dict__, "schema_version": SCHEMA_VERSION, "verdicts": verdicts}
        return json.dumps(values, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> SeriesNote:
        """The inverse of `to_bytes`."""
        values = json.loads(content)
        verdicts = tuple(Verdict.from_json(verdict) for verdict in values["verdicts"])
        return cls(tuple(values["instances"]), verdicts, values["key_check"], values["array_sha256"])


def read_note(part: Path) -> SeriesNote:
    """The note in a parquet part.

    Raises:
        StoreError: another version of the program wrote it.
    """
    content = pq.read_schema(part).metadata[NOTE_KEY]
    check_version(part.parents[1], json.loads(content).get("schema_version", 1))
    return SeriesNote.from_bytes(content)
