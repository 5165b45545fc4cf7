"""Use a fine-tuned run: judge it on labelled slices, or let it classify clinical files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medssl_monai.classify.predict import PredictionOptions, predict_studies
from medssl_monai.runs.folder import run_settings

logger = logging.getLogger(__name__)


def predict_run(
    run: Path,
    sources: Sequence[str | Path],
    out: Path,
    options: PredictionOptions | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Classify clinical files by the bundle's ``inference.yaml`` and ``predict.yaml``.

    Args:
        run: folder of a fine-tuning run.
        sources: one store; or files, folders and archives of DICOM, NIfTI and the like, or DICOMweb addresses of
            studies, which go through ingestion first; or pictures, for a run that was fine-tuned on pictures.
        out: folder for the tables, see `PredictionResult.write`.
        options: heat maps and DICOM objects.
        overrides: top-level keys of the bundle.

    Returns:
        The content of ``studies.json``: one entry a series.

    Raises:
        CheckpointError: ``run`` is no finished fine-tuning run.
        NoImagesError: the sources hold nothing that this run could classify; NotHounsfieldError: they are pictures,
            and the run is for HU.
        InputError: a source does not exist, or a PACS does not answer.
    """
    return predict_studies(run, run_settings(run), sources, out, options, **overrides).studies
