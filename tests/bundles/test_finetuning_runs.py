"""The classification bundle at smoke size: a run, its evaluation and its predictions."""

import csv
import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.predict import predict
from medssl_monai.errors import CheckpointError, ConfigError, LabelError
from medssl_monai.ingest import SliceStore
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.version import __version__
from tests.bundles.runs import files_of, finetune, pretrain
from tests.csv_rows import rows


def test_a_run_needs_no_installed_package(
    phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkout on PYTHONPATH has no metadata of this package."""
    find = importlib.metadata.Distribution.from_name

    def not_ours(name: str) -> importlib.metadata.Distribution:
        if name.lower().replace("_", "-") == "medssl-monai":
            raise importlib.metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", not_ours)
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("medssl-monai")
    pretrain(phantom_store, tmp_path, "byol", epoch_length=1, probe_interval=9)
    packages = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))["packages"]
    assert packages["medssl-monai"] == __version__
    assert packages["torch"] == importlib.metadata.version("torch")


def test_a_fine_tuning_does_not_carry_on_with_other_labels(
    finetuned: Path, phantom_labels: Path, phantom_store: SliceStore, pretrained: Path
) -> None:
    before = files_of(finetuned)
    head, first, *rest = phantom_labels.read_text(encoding="utf-8").splitlines()
    assert ",abdomen_pelvis," in first and ",head," in "".join(rest)
    corrected = phantom_labels.with_name("corrected.csv")  # sources are relative to the table
    corrected.write_text("\n".join([head, first.replace(",abdomen_pelvis,", ",head,"), *rest]) + "\n", encoding="utf-8")
    for labels, settings, named in ((corrected, {}, "other data"), (phantom_labels, {"window": "bone"}, "window")):
        with pytest.raises(CheckpointError, match=named):
            stored = {"store_dir": str(phantom_store.path), "check_weights": False}
            finetune(labels, finetuned, **stored, encoder_weights=str(pretrained), **settings)
    assert files_of(finetuned) == before


def test_every_file_of_a_run_opens_without_unpickling(pretrained: Path, finetuned: Path) -> None:
    files = [p for run in (pretrained, finetuned) for p in run.rglob("*.pt")]
    assert len(files) == 3
    for path in files:
        torch.load(path, weights_only=True)


def test_evaluation_by_patient(
    finetuned: Path, phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    metrics = evaluate(finetuned, phantom_labels, tmp_path / "out", store=phantom_store.path).metrics
    assert metrics["all_slices"]["slices"] == 12
    assert len(metrics["per_patient"]) == 2
    for name in ("metrics.json", "predictions.csv", "studies.json", "figures/confusion_matrix.png", "figures/roc.png"):
        assert (tmp_path / "out" / name).is_file(), name
    again = evaluate(finetuned, phantom_labels, tmp_path / "again", store=phantom_store.path).metrics
    assert again == metrics


def test_prediction_agrees_with_evaluation_and_with_plain_monai(
    finetuned: Path, phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    evaluate(finetuned, phantom_labels, tmp_path / "evaluated", store=phantom_store.path)
    series = phantom_labels.parent / "phantom-004"
    studies = predict(finetuned, [series], tmp_path / "predicted", cache_dir=str(tmp_path / "cache")).studies
    assert [s["slices"] for s in studies] == [6]
    judged = {(r["series_id"], r["slice"]): r for r in rows(tmp_path / "evaluated" / "predictions.csv")}
    predicted = rows(tmp_path / "predicted" / "predictions.csv")
    for row in predicted:
        same = judged[row["series_id"], row["slice"]]
        assert row["flag"] in ("", "out_of_distribution")
        assert probabilities(row) == pytest.approx(probabilities(same), abs=2e-6)
    run_bundle(
        [finetuned / "configs" / "inference.yaml"],
        {
            "bundle_root": str(finetuned),
            "dataset_dir": str(series),
            "output_dir": str(tmp_path / "plain"),
            "device": "cpu",
        },
        workflow_type="infer",
    )
    with (tmp_path / "plain" / "predictions.csv").open(encoding="utf-8") as file:
        plain = [[float(v) for v in line[1:]] for line in csv.reader(file)]
    assert np.allclose(plain, [probabilities(row) for row in predicted], atol=1e-4)
    study = json.loads((tmp_path / "plain" / "studies.json").read_text(encoding="utf-8"))
    assert list(next(iter(study.values())).values()) == pytest.approx(np.mean(plain, axis=0).tolist(), abs=1e-5)


def probabilities(row: dict[str, str]) -> list[float]:
    return [float(v) for k, v in row.items() if k.startswith("p_")]


def test_plain_monai_takes_volumes_of_any_name(finetuned: Path, phantom_labels: Path, tmp_path: Path) -> None:
    name = 'scan 1, "late"'
    shutil.copytree(phantom_labels.parent / "phantom-004", tmp_path / "given" / name)
    places = {"dataset_dir": str(tmp_path / "given"), "output_dir": str(tmp_path / "out")}
    files = [finetuned / "configs" / "inference.yaml"]
    run_bundle(files, {"bundle_root": str(finetuned), "device": "cpu", **places}, workflow_type="infer")
    with (tmp_path / "out" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        content = list(csv.reader(file))
    study = f"{name}/study/ct"
    assert [row[0] for row in content] == [f"{study}:{i}" for i in range(6)]
    studies = json.loads((tmp_path / "out" / "studies.json").read_text(encoding="utf-8"))
    means = np.array([row[1:] for row in content], dtype=float).mean(axis=0)
    assert list(studies[study].values()) == pytest.approx(means.tolist(), abs=1e-5)


def test_validation_keeps_the_best_epoch(phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    table = phantom_labels.read_text(encoding="utf-8")
    labels = phantom_labels.with_name("with_validation.csv")
    last_train = [line for line in table.splitlines() if line.endswith("train")][-1].split(",")[0]
    labels.write_text(
        "\n".join(
            line.replace(",train", ",validation") if line.startswith(last_train) else line
            for line in table.splitlines()
        ),
        encoding="utf-8",
    )
    workflow = finetune(labels, tmp_path / "run", store_dir=str(phantom_store.path), max_epochs=3)
    trainer = workflow.parser.get_parsed_content("train::trainer")
    assert 0 <= trainer.state.best_metric <= 1
    assert (tmp_path / "run" / "validation" / "metrics.json").is_file()
    best = torch.load(tmp_path / "run" / "models" / "model.pt", weights_only=True)
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["network"]
    assert torch.equal(best["fc.weight"], last["fc.weight"]) == (trainer.state.best_metric_epoch == 3)


def test_a_stopped_finetuning_carries_on_exactly(
    phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    settings = {"store_dir": str(phantom_store.path), "frozen_epochs": 1}
    finetune(phantom_labels, tmp_path / "whole", max_epochs=3, **settings)
    finetune(phantom_labels, tmp_path / "parts", max_epochs=1, **settings)
    finetune(phantom_labels, tmp_path / "parts", max_epochs=3, **settings)
    whole, parts = (torch.load(tmp_path / run / "models" / "model.pt", weights_only=True) for run in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_folders_of_files_are_ingested_once(phantom_labels: Path, tmp_path: Path) -> None:
    finetune(phantom_labels, tmp_path / "run", cache_dir=str(tmp_path / "cache"), max_epochs=1)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_bad_input_is_named(
    phantom_labels: Path, phantom_store: SliceStore, pretrained: Path, finetuned: Path, tmp_path: Path
) -> None:
    store = str(phantom_store.path)
    with pytest.raises(ConfigError, match="max_epoch' is not a key"):
        pretrain(phantom_store, tmp_path / "a", max_epoch=3)
    with pytest.raises(CheckpointError, match="resnet18"):
        finetune(phantom_labels, tmp_path / "b", store_dir=store, arch="resnet50", encoder_weights=str(pretrained))
    table = tmp_path / "labels.csv"
    series = phantom_store.series_ids[0]
    rows = f"{series},99,head,train\n{series},0,thorax,train\n"
    table.write_text(f"source,slice,label,split\n{rows}", encoding="utf-8")
    with pytest.raises(LabelError, match="99"):
        finetune(table, tmp_path / "c", store_dir=store)
    table.write_text(f"source,slice,label,split\n{phantom_store.series_ids[0]},0,foot,test\n", encoding="utf-8")
    with pytest.raises(LabelError, match="'foot' is not a class"):
        evaluate(finetuned, table, tmp_path / "d", store=phantom_store.path)
    with pytest.raises(CheckpointError, match="no finished fine-tuning run"):
        predict(pretrained, [phantom_labels.parent], tmp_path / "e")
    assert not [name for name in "abcde" if (tmp_path / name).exists()], "nothing is left behind"


def test_preprocessing_travels_with_the_weights(
    phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    pretrain(phantom_store, tmp_path / "lung", window="lung", mean=0.3, max_epochs=1, warmup_epochs=0)
    settings = {"store_dir": str(phantom_store.path), "encoder_weights": str(tmp_path / "lung"), "max_epochs": 1}
    finetune(phantom_labels, tmp_path / "run", **settings)
    recorded = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert (recorded["window"], recorded["window_hu"], recorded["mean"]) == ("lung", [[-1350.0, 150.0]], 0.3)
    free = {"arch": None, "image_size": None}
    finetune(phantom_labels, tmp_path / "followed", **settings, **free)
    followed = json.loads((tmp_path / "followed" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert (followed["arch"], followed["image_size"]) == ("resnet18", 64)
    with pytest.raises(CheckpointError, match="window lung, not bone"):
        finetune(phantom_labels, tmp_path / "other", window="bone", **settings)
    finetune(phantom_labels, tmp_path / "meant", window="bone", check_weights=False, **settings)
