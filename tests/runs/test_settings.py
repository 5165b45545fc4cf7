"""Settings that cannot be are one sentence before anything is read or written."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from medssl_monai.cli.main import main
from medssl_monai.errors import ConfigError
from medssl_monai.handlers.model_file import ModelFile
from medssl_monai.ingest import SliceStore
from medssl_monai.resources import bundle_dir, resource_dir
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.runs.settings import check_folder, check_results_folder, check_settings
from medssl_monai.statistics.metrics import CHOICES, figures_for_choice

TRAIN = bundle_dir("ct_classification") / "configs" / "train.yaml"
SMALL = {"arch": "resnet18", "image_size": 32, "batch_size": 6, "num_workers": 0, "max_epochs": 1, "device": "cpu"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("device", "cuda", "torch finds no CUDA device here; set device=cpu"),
        ("device", "gpu", "device: must be cpu, cuda or cuda:NUMBER, found 'gpu'"),
        ("learning_rate", "fast", "learning_rate: must be a number above 0, found 'fast'"),
        ("learning_rate", float("nan"), "found nan"),
        ("max_epochs", 0, "max_epochs: must be a whole number from 1, found 0"),
        ("max_epochs", 2.5, "found 2.5"),
        ("max_epochs", None, "max_epochs: needs a value, found null; give one, or leave max_epochs out"),
        ("batch_size", True, "found True"),
        ("frozen_epochs", -1, "frozen_epochs: must be a whole number from 0, found -1"),
        ("image_size", 0, "image_size: must be a whole number of pixels, or two of them, rows and columns, found 0"),
        ("image_size", [64, 96, 32], r"found \[64, 96, 32\]"),
        ("resume", "maybe", "resume: must be true or false, found 'maybe'"),
    ],
)
def test_what_cannot_be_is_told_by_its_name(
    name: str, value: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = {"dataset_dir": str(tmp_path / "missing.csv"), "output_dir": str(tmp_path / "run"), **SMALL, name: value}
    with pytest.raises(ConfigError, match=message):
        run_bundle([TRAIN], given)
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_settings({"device": "cuda:1"})
    with pytest.raises(ConfigError, match="device: cuda:2 is asked for, and there are 2, counted from 0"):
        check_settings({"device": "cuda:2"})


def test_warm_up_epochs_are_a_number_from_0() -> None:
    for found in (-0.5, "two", True):
        with pytest.raises(ConfigError, match=f"warmup_epochs: must be a number from 0, found {found!r}"):
            check_settings({"warmup_epochs": found})


def test_redundancy_is_a_rule() -> None:
    with pytest.raises(ConfigError, match=r"redundancy: must be none, .* found 'hash6' \(did you mean 'hash-6'\?\)"):
        check_settings({"redundancy": "hash6"})
    with pytest.raises(ConfigError, match="redundancy: needs a value, found null"):
        check_settings({"redundancy": None})
    check_settings({"redundancy": "embedding-0.95"})  # a run's own configuration does not have the encoder


def test_what_can_be_passes() -> None:
    from monai.bundle import ConfigParser

    folders = [resource_dir("configs"), *(b / "configs" for b in resource_dir("bundles").iterdir())]
    files = [file for folder in folders for file in folder.glob("*.yaml")]
    assert len(files) > 20
    for file in files:
        check_settings(ConfigParser.load_config_file(str(file)))
    check_settings({"image_size": [64, 96], "warmup_epochs": 0.5})  # views need not be square, nor epochs whole
    check_settings({"max_epochs": np.int64(3), "learning_rate": np.float32(0.1), "device": torch.device("cpu")})


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("run.json", "a run"),
        ("store.json", "a slice store"),
        ("metrics.json", "an evaluation"),
        ("prediction.json", "a prediction"),
    ],
)
def test_results_are_not_mixed_with_others(name: str, held: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    for kind in {"an evaluation", "a prediction"} - {held}:
        with pytest.raises(ConfigError, match=f"{kind} needs a folder of its own, found {held} .{name}.; give another"):
            check_results_folder(tmp_path, kind)
    if name in ("metrics.json", "prediction.json"):
        check_results_folder(tmp_path, held)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new" / "run", "--out")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"--out: must be a folder, and .*file is a file; give another"):
            check_settings({"output_dir": str(path)})


def test_the_figure_that_decides_is_known_before_the_first_epoch(tmp_path: Path) -> None:
    labels, probabilities = np.array([0, 1, 0, 1]), np.full((4, 2), 0.5)
    assert set(figures_for_choice(labels, probabilities)) == set(CHOICES)
    assert set(figures_for_choice(np.eye(4)[:, :2], probabilities)) == set(CHOICES)
    trainer: Any = Engine(lambda *_: None)
    validator: Any = Engine(lambda *_: None)
    with pytest.raises(ConfigError, match=r"val_metric: must be one of accuracy, auc, .*, found 'foo'; give one"):
        ModelFile(torch.nn.Linear(1, 1), tmp_path, validator, "foo").attach(trainer)
    validator.state.key_metric_name = "dice"  # as of MONAI's evaluators that were given metrics of their own
    ModelFile(torch.nn.Linear(1, 1), tmp_path, validator, "foo").attach(trainer)
    trainer.state.best_metric_epoch = -1
    with pytest.raises(ConfigError, match="found 'foo'"):
        trainer.fire_event(Events.EPOCH_COMPLETED)


def test_a_component_that_cannot_be_made_is_named(
    phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["finetune", "--data", phantom_labels, "--store", phantom_store.path, "--out", tmp_path / "run"]
    words += [f"{name}={value}" for name, value in SMALL.items()] + ["weight_decay=big"]
    monkeypatch.setattr(sys, "argv", ["medssl", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("medssl: Adam cannot be made with the params, lr, weight_decay given (TypeError: ")
    assert not (tmp_path / "run").exists()
    monkeypatch.setenv("MEDSSL_TRACEBACK", "1")
    with pytest.raises(ConfigError, match="Adam cannot be made"):
        main()


def test_a_value_that_a_component_of_ours_refuses_is_told_in_its_own_words(
    phantom_store: SliceStore, tmp_path: Path
) -> None:
    small: dict[str, Any] = {**SMALL, "image_size": 32}
    with pytest.raises(ConfigError, match=r"^mask_ratio 0\.6 leaves 0 of 1 visible: .*; take larger images"):
        pretrain("spark", phantom_store, tmp_path / "run", **small)
