"""Slices as channels, from pre-training to prediction: the weights carry their distance, and what follows takes it."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torchvision

from medssl_monai.checkpoints.load import load_into_resnet, preprocessing_of
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.classify.embedder import Embedder
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.predict import predict
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.ingest import SliceStore
from medssl_monai.runs.bundle import run_bundle
from tests.bundles.runs import finetune, pretrain

SPACING = 150.0
"""mm; slices of the phantoms are 137 to 164 mm apart."""
SHORT: dict[str, Any] = {
    "epoch_length": 1,
    "max_epochs": 1,
    "warmup_epochs": 0,
    "probe_interval": 9,
    "guard_interval": 9,
}


@pytest.fixture(scope="module")
def encoder(phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spaced")
    pretrain(phantom_store, folder / "run", channel_spacing_mm=SPACING, **SHORT, keep_interval=1)
    export_run(folder / "run", folder / "encoder.safetensors")
    return folder / "encoder.safetensors"


@pytest.fixture(scope="module")
def classifier(phantom_labels: Path, phantom_store: SliceStore, encoder: Path) -> Path:
    run = encoder.with_name("classifier")
    finetune(phantom_labels, run, store_dir=str(phantom_store.path), encoder_weights=str(encoder), max_epochs=1)
    return run


def test_the_weights_carry_it(encoder: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    known = preprocessing_of(encoder)
    assert (known.channel_spacing_mm, known.channels) == (SPACING, 3)
    card = encoder.with_suffix(".card.md").read_text(encoding="utf-8")
    assert "| channels in training | 3: the slice 150 mm below, the slice itself, the slice 150 mm above |" in card
    metadata = json.loads((encoder.with_name("run") / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert "150 mm below" in metadata["network_data_format"]["inputs"]["image"]["channel_def"]["0"]
    with pytest.raises(CheckpointError, match="channels that hold the same image, found other slices"):
        export_run(encoder, tmp_path / "one.safetensors", single_channel=True)
    # The bundle's own features are those of the view that the header tells.
    run_bundle(
        [encoder.with_name("run") / "configs" / "inference.yaml"],
        {"dataset_dir": str(phantom_store.path), "output_dir": str(tmp_path), "device": "cpu"},
        workflow_type="infer",
    )
    written = pq.read_table(tmp_path / "features.parquet")
    rows = [{name: written.column(name)[i].as_py() for name in ("series_id", "slice")} for i in range(3)]
    embedder = Embedder(encoder)
    assert embedder.view.channel_spacing_mm == SPACING
    features = np.asarray(written.column("features")[:3].to_pylist())
    assert embedder.embed(phantom_store, rows) == pytest.approx(features, abs=1e-4)


@pytest.mark.parametrize(
    "method", ["moco", *(pytest.param(method, marks=pytest.mark.slow) for method in ("swav", "byol"))]
)
def test_every_method_takes_it(method: str, phantom_store: SliceStore, tmp_path: Path) -> None:
    own = {"positives": "neighbour-200mm", "views_on_device": True}
    pretrain(phantom_store, tmp_path, method, channel_spacing_mm=SPACING, **own, **SHORT)
    metadata = load_into_resnet(torchvision.models.resnet18(), tmp_path).metadata
    assert (metadata["channels"], metadata["channel_spacing_mm"]) == ("3", "150.0")


def test_fine_tuning_follows_the_weights(
    classifier: Path, encoder: Path, phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    settings = json.loads((classifier / "run.json").read_text(encoding="utf-8"))["settings"]
    assert settings["channel_spacing_mm"] == SPACING
    own = {"store_dir": str(phantom_store.path), "encoder_weights": str(encoder)}
    with pytest.raises(CheckpointError, match=r"channel_spacing_mm 150, not 0"):
        finetune(phantom_labels, tmp_path / "other", **own, channel_spacing_mm=0)
    with pytest.raises(ConfigError, match="slices under one window, found 3 windows"):
        finetune(phantom_labels, tmp_path / "other", **own, window="medgemma", check_weights=False)


def test_files_and_store_are_predicted_and_evaluated_alike(
    classifier: Path, phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    study = phantom_labels.parent / "phantom-005"
    from_files = predict(classifier, study, tmp_path / "files").slices
    (series,) = set(from_files.column("series_id").to_pylist())
    from_store = predict(classifier, phantom_store.path, tmp_path / "store").slices
    names = [name for name in from_files.column_names if name.startswith("p_")]
    asked = sorted(from_files.to_pylist(), key=lambda row: int(row["slice"]))
    there = sorted(
        (row for row in from_store.to_pylist() if row["series_id"] == series), key=lambda row: int(row["slice"])
    )
    assert len(asked) == len(there) == 6
    for one, other in zip(asked, there, strict=True):
        # In whole millionths, as they are written: of 0.330669 and 0.33067 the difference is above 1e-6 in binary.
        assert all(abs(round(1e6 * one[name]) - round(1e6 * other[name])) <= 1 for name in names)
    metrics = evaluate(classifier, phantom_labels, tmp_path / "judged", store=phantom_store.path, figures=False)
    judged = {(row["series_id"], row["slice"]): row for row in metrics.predictions.to_pylist()}
    assert len(judged) == 12
    assert (tmp_path / "judged" / "figures" / "explanations.png").is_file()


def test_a_slice_alone_is_repeated_with_a_warning(
    classifier: Path, phantom_labels: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = phantom_labels.parent / "phantom-005"
    (tmp_path / "in").mkdir()
    shutil.copy(sorted(study.rglob("*.dcm"))[2], tmp_path / "in")
    predict(classifier, tmp_path / "in", tmp_path / "out")
    assert "channel_spacing_mm 150: 1 of 1 slices have no neighbour on one side or both (1 on both)" in caplog.text


def test_what_has_no_neighbours_is_refused(classifier: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"channel_spacing_mm 5: .*none of 30 slices has such a neighbour"):
        pretrain(phantom_store, tmp_path / "near", channel_spacing_mm=5)
    with pytest.raises(ConfigError, match="one window, or channel_spacing_mm=0"):
        pretrain(phantom_store, tmp_path / "windows", channel_spacing_mm=SPACING, window="medgemma")
    with pytest.raises(ConfigError, match=r"channel_spacing_mm: must be a number of mm.*found '5mm'"):
        pretrain(phantom_store, tmp_path / "words", channel_spacing_mm="5mm")
    assert not any((tmp_path / name / "run.json").exists() for name in ("near", "windows", "words"))
    with pytest.raises(Exception, match=r"neighbouring slices as channels, which ingestion finds; use predict\.yaml"):
        run_bundle(
            [classifier / "configs" / "inference.yaml"],
            {"bundle_root": str(classifier), "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out")},
            workflow_type="infer",
        )
