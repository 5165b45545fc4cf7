"""Runs of the bundles at smoke size, in this process, as ``monai.bundle run`` and ``medssl`` run them."""

from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from medssl_monai.ingest import SliceStore
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.bundle import run_bundle

SMALL = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "num_workers": 0, "max_epochs": 2, "device": "cpu"}


def pretrain(store: SliceStore, out: Path, method: str = "spark", **settings: Any) -> ConfigWorkflow:
    files = [bundle_dir(f"ct_ssl_{method}") / "configs" / "train.yaml", config_file("demo")]
    own = {"decoder_width": 32} if method == "spark" else {}
    return run_bundle(files, {"dataset_dir": str(store.path), "output_dir": str(out), **SMALL, **own, **settings})


def finetune(labels: Path, out: Path, **settings: Any) -> ConfigWorkflow:
    files = [bundle_dir("ct_classification") / "configs" / "train.yaml", config_file("demo_finetune")]
    return run_bundle(files, {"dataset_dir": str(labels), "output_dir": str(out), **SMALL, **settings})


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
