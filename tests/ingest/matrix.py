"""The ingestion matrix as a table of cases: one a row, with the verdict that is expected on every file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.data import get_testdata_file

from medssl_monai.ingest import IngestSummary, SliceStore, build_store
from tests.ingest.dicom_fixtures import KEY

TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"

Expected = dict[str, int]


@dataclass(frozen=True)
class Case:
    """`check` makes the files, ingests them, asserts what belongs to the row, and returns the run to be judged."""

    row: int
    expected: Expected
    check: Callable[[Bench], IngestSummary]

    @property
    def name(self) -> str:
        return f"row{self.row:02d}"


class Bench:
    """A folder to put files into, and ingestion of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, folder / "in"
        self.source.mkdir()
        self.runs = 0

    def run(self, *sources: Path, **options: Any) -> tuple[SliceStore, IngestSummary]:
        """Into a store of its own; files must add up."""
        self.runs += 1
        out = self.folder / f"store{self.runs}"
        summary = build_store(sources or [self.source], out, key=KEY, progress=False, **options)
        assert sum(verdict.files for verdict in summary.verdicts) == summary.files
        return SliceStore(out), summary


def row(number: int, **expected: int) -> Callable[[Callable[[Bench], IngestSummary]], Case]:
    """Files by outcome, or by reason where they are rejected."""
    return lambda check: Case(number, expected, check)


def judged(summary: IngestSummary) -> Expected:
    counts: Counter[str] = Counter()
    for verdict in summary.verdicts:
        counts[verdict.reason.value if verdict.reason else verdict.outcome.value] += verdict.files
    return {name: count for name, count in counts.items() if count}


def cases(names: dict[str, Any]) -> list[Case]:
    return sorted((case for case in names.values() if isinstance(case, Case)), key=lambda case: case.row)


def real(name: str) -> Path:
    """A file that the pydicom or pydicom-data package carries."""
    found = get_testdata_file(name, download=False)
    assert found, name
    return Path(str(found))


def volume(store: SliceStore) -> np.ndarray:
    assert len(store.series_ids) == 1, store.series_ids
    return store.read_series(store.series_ids[0])


def flags(store: SliceStore) -> set[str]:
    return {flag for found in store.select() for flag in found["flags"].split(",") if flag}


def stored(hu: np.ndarray, intercept: int = -1024) -> np.ndarray:
    """Unsigned stored values of HU."""
    return (hu.astype(np.int32) - intercept).astype(np.uint16)
