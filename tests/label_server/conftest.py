"""A small classifier for the server to serve; what needs the server's environment says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medssl_monai.classify.finetune import finetune

SMALL: dict[str, Any] = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "num_workers": 0, "device": "cpu"}


@pytest.fixture(scope="session")
def small_run(phantom_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run of one epoch on the phantom."""
    run = tmp_path_factory.mktemp("runs") / "small"
    return finetune(phantom_labels, run, max_epochs=1, frozen_epochs=0, **SMALL).folder
