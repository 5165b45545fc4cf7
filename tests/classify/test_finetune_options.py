"""The reference's executed schedule, rates by stage, balance of classes, early ends; pictures by the bundle."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from ignite.engine import Engine, Events
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from medssl_monai.classify.classes import balanced_positions, inverse_frequency
from medssl_monai.classify.evaluate import evaluate, temperature_figures
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.predictions import Predictions
from medssl_monai.engines.unfreezing import BackboneUnfreezing
from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.handlers.early_stopping import EarlyStopping
from medssl_monai.ingest import SliceStore
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.bundle import run_bundle
from tests.golden import fill

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SMALL = {"arch": "resnet18", "image_size": 32, "batch_size": 6, "num_workers": 0, "max_epochs": 1, "device": "cpu"}


def test_executed_rates_are_the_references() -> None:
    meta, arrays = fill.load(GOLDEN / "sched_backbone_finetuning.npz")
    network = torchvision.models.resnet18(num_classes=2)
    unfreezing = BackboneUnfreezing(network, meta["lr"], meta["unfreeze_backbone_at_epoch"], schedule="executed")
    optimizer = torch.optim.Adam(unfreezing.parameter_groups(), lr=meta["lr"])
    for epoch in range(meta["epochs"]):
        unfreezing.apply(optimizer, epoch)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        trained = network.conv1.weight.requires_grad
        assert trained == arrays["seed_actual_conv_requires_grad"][epoch]
        assert network.bn1.weight.requires_grad == arrays["seed_actual_bn_requires_grad"][epoch]
        assert rates["head"] == pytest.approx(arrays["seed_actual_head_lr"][epoch], rel=1e-9)
        if trained:  # before, the reference gave frozen convolutions a rate that moved nothing
            assert rates["backbone"] == pytest.approx(arrays["seed_actual_conv_lr"][epoch], rel=1e-9)


def test_rates_decay_by_stage() -> None:
    network = torchvision.models.resnet18(num_classes=2)
    unfreezing = BackboneUnfreezing(network, 1e-3, frozen_epochs=0, train_batch_norm=False, layer_decay=0.5)
    optimizer = torch.optim.Adam(unfreezing.parameter_groups(), lr=1e-3)
    unfreezing.apply(optimizer, 0)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert len(rates) == len(list(network.parameters()))
    wanted = {
        "fc": 1,
        "layer4": 1 / 2,
        "layer3": 1 / 4,
        "layer2": 1 / 8,
        "layer1": 1 / 16,
        "conv1": 1 / 32,
        "bn1": 1 / 32,
    }
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == pytest.approx(1e-3 * wanted[name.split(".")[0]]), name
    with pytest.raises(ConfigError, match="layer_decay"):
        BackboneUnfreezing(network, 1e-3, layer_decay=1.5)
    with pytest.raises(ConfigError, match="documented or executed"):
        BackboneUnfreezing(network, 1e-3, schedule="paper")  # type: ignore[arg-type]


def test_class_weights_are_scikit_learns() -> None:
    labels = [0] * 6 + [1] * 3 + [2]
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    assert np.allclose(inverse_frequency(labels, 3), wanted)
    counts = np.bincount(np.array(labels)[balanced_positions(labels, 3)])
    assert counts.tolist() == [6, 6, 6]
    assert set(balanced_positions(labels, 3)) == set(range(10))
    with pytest.raises(LabelError, match="class number 3"):
        inverse_frequency(labels, 4)


@pytest.mark.parametrize(("patience", "last"), [(1, 3), (2, 6), (None, 8)])
def test_training_ends_when_validation_does_not_improve(patience: int | None, last: int) -> None:
    values = [0.1, 0.5, 0.5, 0.6, 0.4, 0.3, 0.9, 0.1]
    engine = Engine(lambda *_: None)
    best: dict[str, Any] = {"value": -1.0}

    @engine.on(Events.STARTED)
    def start(e: Any) -> None:
        e.state.best_metric_epoch = -1

    @engine.on(Events.EPOCH_COMPLETED)
    def validate(e: Any) -> None:
        value = values[e.state.epoch - 1]
        if value > best["value"]:
            best["value"], e.state.best_metric_epoch = value, e.state.epoch

    EarlyStopping(patience).attach(engine)
    assert engine.run([0], max_epochs=8).epoch == last
    with pytest.raises(ConfigError, match="patience"):
        EarlyStopping(0)


def finetune(data: Path, out: Path, overlays: list[str], **settings: Any) -> Any:
    files = [bundle_dir("ct_classification") / "configs" / "train.yaml", *map(config_file, overlays)]
    values = {"dataset_dir": str(data), "output_dir": str(out), **SMALL, **settings}
    return run_bundle(files, {**values, "overlays": [str(f) for f in files[1:]]})


def test_fractions_shrink_only_what_is_trained_on(phantom_labels: Path, phantom_store: SliceStore) -> None:
    whole = LabelledData(phantom_labels, phantom_store.path)
    third = LabelledData(phantom_labels, phantom_store.path, fraction=1 / 3)
    slices = LabelledData(phantom_labels, phantom_store.path, fraction=1 / 3, subset_unit="slices")
    assert len({row["patient"] for row in third.rows("train")}) == 1
    assert len({row["patient"] for row in slices.rows("train")}) == 3
    assert third.rows("test") == whole.rows("test")
    assert set(third.labels_of("train")) == {0, 1, 2}
    with pytest.raises(ConfigError, match="label_fraction"):
        LabelledData(phantom_labels, phantom_store.path, fraction=1.5)


def test_options_of_the_bundle(phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    workflow = finetune(
        phantom_labels,
        tmp_path / "run",
        ["paper_finetune"],
        store_dir=str(phantom_store.path),
        class_balance="loss",
        label_fraction=0.5,
        subset_unit="slices",
        layer_decay=0.75,
        patience=3,
    )
    assert workflow.parser.get_parsed_content("train::loss").weight.shape == (3,)
    assert len(workflow.parser.get_parsed_content("train::optimizer").param_groups) == 6
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["unfreezing_schedule"] == "executed"
    assert settings["label_fraction"] == 0.5


def two_classes(root: Path) -> Path:
    """Folders of pictures that differ in brightness, of eight patients each; some are for validation."""
    generator = np.random.default_rng(0)
    for label, level in (("bleeding", 60), ("none", 180)):
        for person in range(8):
            path = root / label / f"p{label}{person}" / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(generator.normal(level, 10, (24, 20)).clip(0, 255).astype(np.uint8)).save(path)
    return root


def test_validation_on_a_cpu_does_not_ask_for_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would warn of it, which is an error here."""
    monkeypatch.setattr("medssl_monai.engines.precision.cpu_has_bfloat16", lambda: True)
    finetune(two_classes(tmp_path / "data"), tmp_path / "run", ["finetune_folders"], amp=True)
    found = json.loads((tmp_path / "run" / "data.json").read_text())
    assert "validation" in {row["split"] for row in found["rows"]}


def test_pictures_go_through_the_bundle(tmp_path: Path) -> None:
    two_classes(tmp_path / "data")
    overlays = ["finetune_folders"]
    settings = {"max_epochs": 6, "frozen_epochs": 0, "learning_rate": 1e-3, "class_balance": "sampling"}
    settings |= {"arch": "resnet18", "image_size": 64}
    finetune(tmp_path / "data", tmp_path / "run", overlays, **settings)
    metrics = evaluate(tmp_path / "run", tmp_path / "data", tmp_path / "out").metrics
    for folder in ("run", "out"):
        found = json.loads((tmp_path / folder / "data.json").read_text())
        assert {row["split"] for row in found["rows"]} == {"train", "validation", "test"}
        assert "sets" in found["audit"]
    assert metrics["temperature_scaling"]["validation_slices"] == 2
    assert metrics["classes"] == ["bleeding", "none"]
    assert metrics["all_slices"]["binary"]["positive_class"] == "none"
    assert len(metrics["per_patient"]) == metrics["all_slices"]["slices"] > 2
    assert "fewer than 10" in metrics["intervals"]["note"]


def test_temperature_is_fitted_on_validation_and_judged_elsewhere() -> None:
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(4000, 3)) * 2)
    draws = torch.from_numpy(generator.random((4000, 1)))
    labels = (logits.softmax(1).cumsum(1) < draws).sum(1).clamp(max=2)  # calibrated, then made three times too sure
    items: Any = [{"image": 3 * row.float(), "label": int(y)} for row, y in zip(logits, labels, strict=True)]
    network = torch.nn.Linear(3, 3, bias=False)
    network.weight.data = torch.eye(3)
    predictions = Predictions(["a", "b", "c"])
    for i, item in enumerate(items[2000:]):
        predictions.add(item["image"].double().softmax(0).numpy(), "s", i, "p", item["label"])
    found = temperature_figures(network, items[:2000], predictions)
    assert found["temperature"] == pytest.approx(3, rel=0.1)
    assert found["validation_slices"] == 2000
    assert found["ece"][1] < 0.04 < found["ece"][0]
    assert found["log_loss"][1] < found["log_loss"][0]
