"""An ingestion of files made for it, and what is asked of its outcome."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl_monai.ingest import IngestSummary, Outcome, Reason, SliceStore, Verdict, build_store
from tests.ingest.dicom_fixtures import KEY

Ingest = Callable[..., tuple[SliceStore, IngestSummary]]


@pytest.fixture
def run(tmp_path: Path) -> Ingest:
    def run(*sources: Path, out: str = "store", **options: Any) -> tuple[SliceStore, IngestSummary]:
        summary = build_store(sources or [tmp_path / "in"], tmp_path / out, key=KEY, progress=False, **options)
        assert sum(verdict.files for verdict in summary.verdicts) == summary.files
        return SliceStore(tmp_path / out), summary

    return run


def only(summary: IngestSummary) -> Verdict:
    assert len(summary.verdicts) == 1, summary.verdicts
    return summary.verdicts[0]


def volume(store: SliceStore) -> np.ndarray:
    assert len(store.series_ids) == 1
    return store.read_series(store.series_ids[0])


def rejections(summary: IngestSummary) -> dict[Reason | None, int]:
    return {v.reason: v.files for v in summary.verdicts if v.outcome is Outcome.REJECTED}
