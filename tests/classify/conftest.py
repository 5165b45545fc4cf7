"""A small fine-tuned run for the tests of predictions."""

import re
from pathlib import Path
from typing import Any

import pytest

from medssl_monai.classify.finetune import finetune
from medssl_monai.ingest import SliceStore

SMALL: dict[str, Any] = {
    "arch": "resnet18",
    "image_size": 64,
    "batch_size": 6,
    "num_workers": 0,
    "max_epochs": 2,
    "device": "cpu",
}


@pytest.fixture(scope="session")
def fine_tuned(phantom_labels: Path, phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two phantom patients, with a third for validation."""
    text = phantom_labels.read_text(encoding="utf-8")
    last = re.findall(r"^([^,]+),.*,train$", text, re.M)[-1]
    table = phantom_labels.with_name("labels_for_predictions.csv")
    table.write_text(re.sub(rf"^({last},.*),train$", r"\1,validation", text, flags=re.M), encoding="utf-8")
    out = tmp_path_factory.mktemp("runs") / "fine_tuned"
    run = finetune(table, out, store=phantom_store.path, config=["demo_finetune"], **SMALL)
    assert run.model.is_file()
    assert (run.train_slices, run.train_patients, run.steps) == (12, 2, 4)
    assert run.settings["classes"] == ["abdomen_pelvis", "head", "thorax"]
    assert run.validation is not None
    assert run.validation["all_slices"]["slices"] == 6
    return run.folder
