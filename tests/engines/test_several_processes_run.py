"""``torchrun`` with two processes over gloo gives what one process gives on the whole batch, for every bundle."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.resources import bundle_dir, config_file

pytestmark = [pytest.mark.ddp, pytest.mark.slow]
SMALL = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "num_workers": 0, "max_epochs": 1}
OWN: dict[str, dict[str, object]] = {
    "spark": {"decoder_width": 32},
    "swav": {"queue_length": 12, "queue_start_epoch": 0, "positives": "neighbour-200mm"},
    "moco": {"queue_length": 12, "positives": "neighbour-200mm", "negatives": "other_series"},
}


def run(bundle: str, overlay: str, processes: int, settings: dict[str, object], out: Path) -> list[dict[str, float]]:
    """Run a bundle in processes of its own; returns its history."""
    configs = bundle_dir(bundle) / "configs"
    files = [str(configs / "train.yaml"), str(config_file(overlay)), str(configs / "multi_gpu_train.yaml")]
    launch = [sys.executable, "-m"]
    launch += ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"] if processes > 1 else []
    words = [w for k, v in {**settings, "output_dir": out}.items() for w in (f"--{k}", str(v))]
    result = subprocess.run(
        [*launch, "monai.bundle", "run", "--config_file", str(files), *words],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return [json.loads(line) for line in (out / "logs" / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def store_of_one_key(phantom_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a key of a run's own, another order of slices each time would start BYOL's loss anywhere about 0."""
    out = tmp_path_factory.mktemp("stores") / "one-key"
    build_store([phantom_labels.parent], out, key=b"a key for tests, 16 bytes or more", modality="CT", progress=False)
    return out


@pytest.mark.parametrize("method", ["spark", "swav", "moco", "byol"])
def test_pretraining(method: str, store_of_one_key: Path, tmp_path: Path) -> None:
    settings = {**SMALL, **OWN.get(method, {}), "warmup_epochs": 0, "dataset_dir": store_of_one_key}
    one = run(f"ct_ssl_{method}", "demo", 1, settings, tmp_path / "one")
    two = run(f"ct_ssl_{method}", "demo", 2, settings, tmp_path / "two")
    assert len(one) == len(two) == 5
    # The first loss is the same but for rounding; later ones follow it as far as float32 training is stable. (In
    # float64 the methods agree to 1e-10: tests/methods/test_several_processes.py.)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-4)
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=5e-2, abs=1e-2)
    assert (tmp_path / "two" / "models" / "encoder.safetensors").is_file()
    assert len(list((tmp_path / "two" / "logs").glob("events*"))) == 1


def test_finetuning(phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    settings = {**SMALL, "dataset_dir": phantom_labels, "store_dir": phantom_store.path, "frozen_epochs": 0}
    one = run("ct_classification", "demo_finetune", 1, settings, tmp_path / "one")
    two = run("ct_classification", "demo_finetune", 2, settings, tmp_path / "two")
    for a, b in zip(one, two, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=2e-2)
    weights = [
        torch.load(tmp_path / run / "models" / "model.pt", weights_only=True)["fc.weight"] for run in ("one", "two")
    ]
    assert torch.allclose(weights[0], weights[1], atol=1e-3)
