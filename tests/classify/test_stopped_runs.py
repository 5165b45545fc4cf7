"""A fine-tuning that was stopped is not taken for a finished one, of whatever kind."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from medssl_monai.classify.predict import predict
from medssl_monai.errors import CheckpointError
from medssl_monai.handlers.model_file import ModelFile
from medssl_monai.ingest import SliceStore
from medssl_monai.resources import bundle_dir
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.folder import run_settings
from medssl_monai.runs.pack import pack_bundle
from tests.classify.conftest import SMALL


def test_a_stopped_run_is_refused_until_it_has_ended(
    fine_tuned: Path, phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"

    def train(epochs: int) -> None:
        places = {"dataset_dir": str(phantom_labels.with_name("labels_for_predictions.csv")), "output_dir": str(run)}
        places["store_dir"] = str(phantom_store.path)
        settings = {**SMALL, "max_epochs": epochs, "confidence": False}
        run_bundle([bundle_dir("ct_classification") / "configs" / "train.yaml"], {**places, **settings})

    write = ModelFile._write

    def write_and_stop(self: ModelFile, engine: Any) -> None:
        write(self, engine)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(ModelFile, "_write", write_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(3)
    assert (run / "models" / "model.pt").is_file(), "the best so far"
    with pytest.raises(CheckpointError, match=r"stands at epoch 1 of 3; the same command .* given max_epochs=1$"):
        predict(run, [phantom_store.path], tmp_path / "out")
    with pytest.raises(CheckpointError, match="stands at epoch 1 of 3"):
        pack_bundle("ct_classification", run, tmp_path / "packed.zip")
    assert not (tmp_path / "out").exists() and not (tmp_path / "packed.zip").exists()
    train(1)
    assert run_settings(run)["max_epochs"] == 1
    assert fine_tuned != run and run_settings(fine_tuned)["max_epochs"] == 2


@pytest.mark.parametrize(
    ("state", "patience", "ended"),
    [
        ({"iteration": 20, "epoch_length": 2, "max_epochs": 10, "best_metric_epoch": 3}, None, True),
        ({"iteration": 19, "epoch_length": 2, "max_epochs": 10, "best_metric_epoch": 3}, None, False),
        ({"iteration": 12, "epoch_length": 2, "max_epochs": 10, "best_metric_epoch": 3}, 3, True),
        ({"iteration": 12, "epoch_length": 2, "max_epochs": 10, "best_metric_epoch": 4}, 3, False),
        ({"iteration": 12, "epoch_length": 2, "max_epochs": 10, "best_metric_epoch": -1}, 3, False),
        ({"iteration": 12}, None, True),  # says nothing, as another version's may
        (None, None, True),  # a packed bundle, a run of the label server
    ],
)
def test_what_has_ended(
    fine_tuned: Path, tmp_path: Path, state: dict[str, int] | None, patience: int | None, ended: bool
) -> None:
    run = tmp_path / "run"
    shutil.copytree(fine_tuned, run)
    config = run / "configs" / "train.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("\npatience: null\n", f"\npatience: {patience or 'null'}\n"), encoding="utf-8")
    shutil.rmtree(run / "checkpoints")
    if state is not None:
        (run / "checkpoints").mkdir()
        torch.save({"trainer": state, "network": {}}, run / "checkpoints" / "last.pt")
    if ended:
        assert run_settings(run)["patience"] == patience
    else:
        with pytest.raises(CheckpointError, match=f"stands at epoch {state and state['iteration'] // 2} of 10"):
            run_settings(run)
