"""The pre-training bundles at smoke size: what a run leaves, carries on from, refuses and exports."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision

from medssl_monai.checkpoints.load import load_into_resnet
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.cli.export import _described
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.ingest import SliceStore, build_store, load_key
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.pretrain import PretrainedRun
from medssl_monai.runs.pretrain import pretrain as pretrain_on
from medssl_monai.runs.step_log import read_rows
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.store.joined import JoinedStore
from medssl_monai.store.places import store_at
from tests.bundles.runs import SMALL, files_of, pretrain


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


def test_several_stores_share_a_pass(phantom_store: SliceStore, tmp_path: Path) -> None:
    write_phantom(tmp_path / "in", patients=1, seed=9, size=64, slices=6)
    build_store([tmp_path / "in"], tmp_path / "other", key=load_key(), modality="CT", progress=False)
    stores: list[str | Path] = [phantom_store.path, f"file://{tmp_path / 'other'}"]
    short = {
        **SMALL,
        "max_epochs": 1,
        "warmup_epochs": 0,
        "decoder_width": 32,
        "probe_interval": 9,
        "guard_interval": 9,
    }
    done = pretrain_on("spark", stores, tmp_path / "run", config="demo", store_shares=[2, 1], **short)
    record = json.loads((done.folder / "run.json").read_text())
    assert record["data"]["slices"] == record["data"]["slices_in_store"] == len(phantom_store) + 6
    assert (
        len(read_rows(done.folder / "logs" / "history.jsonl")) == 3
    )  # steps of 6: all of the one, and 12 of the other
    joined = JoinedStore([store_at(store) for store in stores])
    assert record["data_fingerprint"] == joined.fingerprint
    assert _described(stores, done.folder, True)["data"] == record["data"]
    with pytest.raises(ConfigError, match="store_shares: needs a number above 0 for each of the 2 stores"):
        pretrain_on("spark", stores, tmp_path / "refused", config="demo", store_shares=[2], **short)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("method", ["spark", "swav", "moco", "byol"])
def test_three_windows_are_three_channels_in_the_weights_header(
    method: str, phantom_store: SliceStore, tmp_path: Path
) -> None:
    short = {"epoch_length": 1, "probe_interval": 9, "guard_interval": 9}
    pretrain(phantom_store, tmp_path, method, window=["lung", "mediastinum", "bone"], **short)
    metadata = load_into_resnet(torchvision.models.resnet18(), tmp_path).metadata
    assert metadata["channels"] == "3"
    assert json.loads(metadata["window"]) == ["lung", "mediastinum", "bone"]


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
    assert _described([phantom_store.path], run, False) == {"data": record["data"]}
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
        ({"channel_spacing_mm": 150, "max_epochs": 3}, "channel_spacing_mm: 0 then, 150 now"),
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
