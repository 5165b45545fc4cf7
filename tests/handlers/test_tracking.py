"""What TensorBoard and MLflow get of a run, and what they do not."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigWorkflow
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from medssl_monai.classify.finetune import finetune
from medssl_monai.errors import ConfigError
from medssl_monai.handlers.tensorboard import TensorBoardRun
from medssl_monai.ingest import SliceStore
from medssl_monai.resources import bundle_dir
from medssl_monai.runs.folder import git_state

SMALL: dict[str, Any] = {
    "arch": "resnet18",
    "image_size": 32,
    "batch_size": 6,
    "num_workers": 0,
    "device": "cpu",
    "max_epochs": 2,
    "epoch_length": 2,
    "seed": 5,
}
# What MLflow's own tables and its driver warn of; only they can change it.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::FutureWarning:mlflow"),
]
TRAIN = bundle_dir("ct_classification") / "configs" / "train.yaml"


def table(labels: Path) -> Path:
    """The phantom's table with a validation part, so that there is a curve of it."""
    lines = labels.read_text(encoding="utf-8").splitlines()
    kept = [line.replace("test", "validation") for line in lines]
    out = labels.with_name("tracked.csv")
    out.write_text("\n".join(kept), encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def tracked(
    phantom_labels: Path, phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """A run with both trackers; and where its data lay."""
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    out, labels = tmp_path_factory.mktemp("tracked") / "run", table(phantom_labels)
    finetune(labels, out, store=phantom_store.path, tracking="mlflow", **SMALL)
    yield out, labels


def test_tensorboard_has_curves_and_pictures(tracked: tuple[Path, Path]) -> None:
    events = EventAccumulator(str(tracked[0] / "logs"))
    events.Reload()
    assert len(events.Scalars("train/loss")) == len(events.Scalars("train/learning_rate")) == 4
    history = [json.loads(line) for line in (tracked[0] / "logs" / "history.jsonl").read_text().splitlines()]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([row["loss"] for row in history])
    assert [e.step for e in events.Scalars("validation/balanced_accuracy")][:2] == [2, 4]
    assert "loss" in events.Tags()["images"]
    picture = events.Images("loss")[-1]
    assert picture.width > 200 and picture.height > 200


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_tensorboard_reads_a_device_now_and_then(tmp_path: Path, device: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    board, written = TensorBoardRun(tmp_path, optimizer, every=4), []
    (tmp_path / "logs").mkdir()

    def step(engine: Engine, batch: float) -> dict[str, torch.Tensor]:
        written.append(len(board._pending))
        return {"loss": torch.tensor(batch)}

    trainer: Any = Engine(step)
    trainer.state.device = torch.device(device)  # where the scalars are said to lie
    board.attach(trainer)
    trainer.run([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], max_epochs=1)
    assert written == ([0, 0, 0, 0, 0, 0] if device == "cpu" else [0, 1, 2, 3, 0, 1])
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(i + 1, i) for i in range(6)]


def test_mlflow_has_curves_and_settings_and_no_path_of_data(tracked: tuple[Path, Path]) -> None:
    run, labels = tracked
    with sqlite3.connect(run / "mlruns.db") as database:
        losses = database.execute("select value from metrics where key = 'loss' order by step").fetchall()
        params = dict(database.execute("select key, value from params").fetchall())
        everything = "\n".join(database.iterdump())
    database.close()
    history = [json.loads(line) for line in (run / "logs" / "history.jsonl").read_text().splitlines()]
    assert [value for (value,) in losses] == pytest.approx([row["loss"] for row in history])
    assert (params["settings.seed"], params["settings.arch"], params["max_epochs"]) == ("5", "resnet18", "2")
    assert params["data_fingerprint"] == json.loads((run / "run.json").read_text())["data_fingerprint"]
    for word in (str(labels.parent), labels.name, "phantom-0"):
        assert word not in everything
    assert not list(run.glob("config_*.json")), "MONAI's copy of the configuration holds paths"


def test_a_run_records_versions_state_and_seed(tracked: tuple[Path, Path]) -> None:
    record = json.loads((tracked[0] / "run.json").read_text())
    assert record["settings"]["seed"] == 5
    assert {"torch", "monai", "medssl-monai"} <= set(record["packages"])
    assert len(record["data_fingerprint"]) == 64
    assert record["processes"] == 1
    assert set(record["git"] or {"commit": "", "changed": ""}) == {"commit", "changed"}


def test_git_state_is_of_checkouts_alone(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    (tmp_path / ".git").mkdir()  # broken
    assert git_state(tmp_path) is None


def test_monais_own_switch_does_the_same(phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    places = {"dataset_dir": str(phantom_labels), "store_dir": str(phantom_store.path), "output_dir": str(tmp_path)}
    workflow = ConfigWorkflow(
        config_file=str(TRAIN), workflow_type="train", logging_file=False, tracking="mlflow", **{**SMALL, **places}
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    with sqlite3.connect(tmp_path / "mlruns.db") as database:
        assert database.execute("select count(*) from metrics where key = 'loss'").fetchone() == (4,)
    database.close()
    assert not list(tmp_path.glob("config_*.json"))


def test_other_trackers_and_files_that_nobody_reads_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be mlflow or null"):
        finetune(tmp_path, tmp_path, tracking="wandb")
