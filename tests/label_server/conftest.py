"""A small classifier for the server to serve; what needs the server's environment says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl_monai.resources import bundle_dir
from medssl_monai.runs.bundle import run_bundle

SMALL = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "num_workers": 0, "device": "cpu"}


@pytest.fixture(scope="session")
def small_run(phantom_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run of one epoch on the phantom."""
    run = tmp_path_factory.mktemp("runs") / "small"
    run_bundle(
        [bundle_dir("ct_classification") / "configs" / "train.yaml"],
        {"dataset_dir": str(phantom_labels), "output_dir": str(run), "max_epochs": 1, "frozen_epochs": 0, **SMALL},
    )
    return run
