"""The bundles at smoke size, in this process, as ``monai.bundle run`` and ``medssl`` run them."""

import csv
import importlib.metadata
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from monai.bundle import ConfigWorkflow

from medssl_monai.checkpoints.load import load_into_resnet
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.predict import predict
from medssl_monai.cli.export import _described
from medssl_monai.errors import CheckpointError, ConfigError, LabelError
from medssl_monai.ingest import SliceStore
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.pretrain import PretrainedRun
from medssl_monai.version import __version__
from tests.csv_rows import rows

SMALL = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "num_workers": 0, "max_epochs": 2, "device": "cpu"}


def pretrain(store: SliceStore, out: Path, method: str = "spark", **settings: Any) -> ConfigWorkflow:
    files = [bundle_dir(f"ct_ssl_{method}") / "configs" / "train.yaml", config_file("demo")]
    own = {"decoder_width": 32} if method == "spark" else {}
    return run_bundle(files, {"dataset_dir": str(store.path), "output_dir": str(out), **SMALL, **own, **settings})


def finetune(labels: Path, out: Path, **settings: Any) -> ConfigWorkflow:
    files = [bundle_dir("ct_classification") / "configs" / "train.yaml", config_file("demo_finetune")]
    return run_bundle(files, {"dataset_dir": str(labels), "output_dir": str(out), **SMALL, **settings})


@pytest.fixture(scope="module")
def pretrained(phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pretrain"
    workflow = pretrain(phantom_store, out)
    assert workflow.check_properties() == []
    return out


@pytest.fixture(scope="module")
def finetuned(
    phantom_labels: Path, phantom_store: SliceStore, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finetune"
    workflow = finetune(phantom_labels, out, store_dir=str(phantom_store.path), encoder_weights=str(pretrained))
    assert workflow.check_properties() == []
    return out


def test_pretraining_leaves_a_run(pretrained: Path, phantom_store: SliceStore) -> None:
    for name in ("run.json", "LICENSE", "configs/train.yaml", "models/encoder.safetensors", "checkpoints/last.pt"):
        assert (pretrained / name).is_file(), name
    for figure in ("loss.png", "reconstruction.png"):
        assert (pretrained / "figures" / figure).stat().st_size > 10_000
    run = json.loads((pretrained / "run.json").read_text(encoding="utf-8"))
    assert run["data_fingerprint"] == phantom_store.fingerprint
    assert run["settings"]["arch"] == "resnet18"
    report = load_into_resnet(torchvision.models.resnet18(), pretrained)
    assert report.missing == ("fc.weight", "fc.bias")
    assert report.metadata["method"] == "spark"
    assert report.metadata["window"] == '"wide"'


@pytest.mark.parametrize("method", ["spark", "swav", "moco", "byol"])
def test_three_windows_are_three_channels_in_the_weights_header(
    method: str, phantom_store: SliceStore, tmp_path: Path
) -> None:
    short = {"epoch_length": 1, "probe_interval": 9, "guard_interval": 9}
    pretrain(phantom_store, tmp_path, method, window=["lung", "mediastinum", "bone"], **short)
    metadata = load_into_resnet(torchvision.models.resnet18(), tmp_path).metadata
    assert metadata["channels"] == "3"
    assert json.loads(metadata["window"]) == ["lung", "mediastinum", "bone"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(
    "method", ["spark", "swav", *(pytest.param(m, marks=pytest.mark.slow) for m in ("moco", "byol"))]
)
def test_near_copies_are_left_out(
    method: str, phantom_store: SliceStore, pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "medssl_monai")
    short = {"epoch_length": 1, "max_epochs": 1, "warmup_epochs": 0, "probe_interval": 9, "guard_interval": 9}
    rule = "embedding-0.5" if method == "moco" else "hash-12"
    encoder = {"redundancy_encoder": str(pretrained)} if method == "moco" else {}
    run = tmp_path / "run"
    workflow = pretrain(phantom_store, run, method, redundancy=rule, **encoder, **short)
    left = len(workflow.parser.get_parsed_content("train#dataset"))
    assert 5 <= left < 30
    assert f"redundancy {rule}: {left} of 30 slices are left ({left / 30:.0%}) for training" in caplog.text
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert record["settings"]["redundancy"] == rule
    assert (record["data"]["slices"], record["data"]["patients"]) == (left, 5)
    assert record["data"]["left after thinning"] == f"{left} of 30 slices, by {rule}"
    assert str(pretrained) not in "".join(p.read_text() for p in run.rglob("*.*") if p.suffix in {".yaml", ".json"})
    export_run(run, tmp_path / "encoder.safetensors")
    card = (tmp_path / "encoder.card.md").read_text(encoding="utf-8")
    assert f"| left after thinning | {left} of 30 slices, by {rule} |" in card
    assert f"| redundancy | {rule} |" in card
    assert _described(phantom_store.path, run, False) == {"data": record["data"]}
    # Other slices cannot carry on; a run is evaluated on all slices, without the encoder that thinned them.
    before = files_of(run)
    with pytest.raises(CheckpointError, match=f"redundancy: {rule} then, none now"):
        pretrain(phantom_store, run, method, **short)
    assert files_of(run) == before
    configs = [run / "configs" / "train.yaml", run / "configs" / "evaluate.yaml"]
    evaluated = run_bundle(configs, {"dataset_dir": str(phantom_store.path), "output_dir": str(tmp_path / "out")})
    if method == "spark":
        assert len(evaluated.parser.get_parsed_content("train#dataset")) == 30


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"arch": "resnet34"}, "arch: resnet18 then, resnet34 now"),
        ({"window": "lung", "max_epochs": 3}, "window: wide then, lung now"),
        ({"max_epochs": 1}, "the warm-up must end before the run"),
    ],
)
def test_a_command_that_cannot_carry_on_leaves_the_run_as_it_was(
    settings: dict[str, Any], named: str, pretrained: Path, phantom_store: SliceStore
) -> None:
    before = files_of(pretrained)
    with pytest.raises((CheckpointError, ConfigError), match=named):
        pretrain(phantom_store, pretrained, **settings)
    assert files_of(pretrained) == before


def test_a_finished_run_says_so_and_stays_as_it_was(
    pretrained: Path, phantom_store: SliceStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(pretrained, run)
    before = files_of(run / "logs")
    pretrain(phantom_store, run)
    assert f"{run}: the run is finished, at epoch 2 of 2" in caplog.text
    after = files_of(run / "logs")
    assert {name: after[name] for name in before if name.endswith(".jsonl")} == {
        name: content for name, content in before.items() if name.endswith(".jsonl")
    }


def test_a_run_sums_itself_up(pretrained: Path) -> None:
    run = PretrainedRun(pretrained)
    loss, *probes, embeddings = run.summary()
    assert loss == f"training loss {run.loss:.4f} at step 10"
    assert len(probes) == len(run.probes) > 0
    for line, row in zip(probes, run.probes, strict=True):
        assert line.endswith(f"kNN {row['knn']:.3f}, linear {row['linear']:.3f}, chance {row['chance']:.3f}")
    assert embeddings.startswith("no collapse at step 10: ")


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


@pytest.mark.parametrize("method", ["spark", "swav", "moco", "byol"])
def test_the_recipe_for_small_machines_runs_in_parts_and_carries_on(
    method: str, phantom_store: SliceStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [bundle_dir(f"ct_ssl_{method}") / "configs" / "train.yaml", config_file("small")]
    own = {"dataset_dir": str(phantom_store.path), "output_dir": str(tmp_path / "run"), "device": "cpu"}
    short: dict[str, Any] = {"epoch_length": 2, "max_epochs": 1, "warmup_epochs": 0, "accumulation_steps": 2}
    short |= {} if method == "spark" else {"positives": "neighbour-200mm"}
    short |= {"negatives": "other_patients"} if method == "moco" else {}
    caplog.set_level("INFO", "medssl_monai")
    run_bundle(files, {**own, **short})
    told = "positives neighbour-200mm: 30 of 30 slices have a partner, and 0 are paired with themselves"
    assert (told in caplog.text) == (method != "spark")
    settings = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["settings"]
    assert settings["batch_size"] == 16
    assert settings["accumulation_steps"] == 2
    history = [json.loads(line) for line in (tmp_path / "run" / "logs" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 2
    assert all(np.isfinite(line["loss"]) for line in history)
    assert [line.get("left_out", 0) > 0 for line in history] == [False, method == "moco"]  # the queue begins random
    with pytest.raises(CheckpointError, match="accumulation_steps"):
        run_bundle(files, {**own, **short, "accumulation_steps": 4, "max_epochs": 2})


@pytest.mark.parametrize("method", ["swav", "moco", pytest.param("byol", marks=pytest.mark.slow)])
def test_the_contrastive_methods_train_and_export(
    method: str, phantom_store: SliceStore, phantom_labels: Path, tmp_path: Path
) -> None:
    workflow = pretrain(phantom_store, tmp_path / "run", method, probe_labels=str(phantom_labels))
    assert workflow.check_properties() == []
    report = load_into_resnet(torchvision.models.resnet18(), tmp_path / "run")
    assert report.metadata["method"] == method
    history = [json.loads(line) for line in (tmp_path / "run" / "logs" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 10
    assert all(np.isfinite(line["loss"]) for line in history)
    guard = [json.loads(line) for line in (tmp_path / "run" / "logs" / "collapse.jsonl").read_text().splitlines()]
    assert [line["step"] for line in guard] == [5, 10]
    assert (tmp_path / "run" / "figures" / "embeddings.png").is_file()
    probes = [json.loads(line) for line in (tmp_path / "run" / "logs" / "probes.jsonl").read_text().splitlines()]
    assert [line["label"] for line in probes] == ["label"]
    run = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))
    assert (run["data"]["patients"], run["data"]["slices"]) == (5, 30)


@pytest.mark.parametrize("method", ["spark", "swav", "moco", "byol"])
def test_the_papers_recipes_run(method: str, phantom_store: SliceStore, tmp_path: Path) -> None:
    files = [bundle_dir(f"ct_ssl_{method}") / "configs" / "train.yaml", config_file(f"paper_{method}")]
    small: dict[str, Any] = {
        **SMALL,
        "max_epochs": 1,
        "dataset_dir": str(phantom_store.path),
        "output_dir": str(tmp_path),
    }
    own: dict[str, dict[str, Any]] = {"spark": {"warmup_epochs": 0, "decoder_width": 32}, "swav": {"counts": [2, 1]}}
    small |= own.get(method, {})
    workflow = run_bundle(files, small)
    assert workflow.parser.get_parsed_content("train::trainer").state.iteration == 5
    view = workflow.parser.get_parsed_content("train::dataset")[0]["views"][0]
    assert view.shape[0] == (3 if method == "spark" else 1)
    if method == "swav":
        trained = workflow.parser.get_parsed_content("method")
        assert trained.freeze_prototypes_epochs == 313
        assert trained.queue is None


def test_every_file_of_a_run_opens_without_unpickling(pretrained: Path, finetuned: Path) -> None:
    files = [p for run in (pretrained, finetuned) for p in run.rglob("*.pt")]
    assert len(files) == 3
    for path in files:
        torch.load(path, weights_only=True)


def test_the_same_seed_trains_the_same_encoder(phantom_store: SliceStore, pretrained: Path, tmp_path: Path) -> None:
    pretrain(phantom_store, tmp_path / "again")
    pretrain(phantom_store, tmp_path / "other", seed=1)
    prints = [
        load_into_resnet(torchvision.models.resnet18(), run).fingerprint
        for run in (pretrained, tmp_path / "again", tmp_path / "other")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_export_proves_itself(pretrained: Path, tmp_path: Path) -> None:
    report = export_run(pretrained, tmp_path / "encoder.safetensors")
    source = load_into_resnet(torchvision.models.resnet18(), pretrained)
    assert report.fingerprint == source.fingerprint
    assert report.metadata["mean"] == source.metadata["mean"]
    with pytest.raises(CheckpointError, match="safetensors"):
        export_run(pretrained, tmp_path / "encoder.bin")


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
