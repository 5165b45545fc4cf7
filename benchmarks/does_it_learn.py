"""Does each method learn anything? Frozen features after a small budget against those of a random encoder.

    python benchmarks/does_it_learn.py --out DIR [--seeds 5] [--epochs 12]

Phantom, 40 patients: each method is pre-trained on 24 of them without labels, once a seed; a kNN (cosine, k = 5) and a
logistic regression learn from those patients' labelled slices and are judged on the other 16. Prints balanced accuracy,
mean over seeds, and the paired difference from the random encoder of the same seed; writes results.json.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from medssl_monai.checkpoints.load import load_into_resnet
from medssl_monai.downstream.baselines import encoder_features
from medssl_monai.downstream.labelled_data import LabelledData
from medssl_monai.downstream.metrics import balanced_accuracy
from medssl_monai.engines.bundle_run import run_bundle
from medssl_monai.ingest import ingest
from medssl_monai.ingest.labels import read_labels
from medssl_monai.ingest.pseudonyms import KEY_VARIABLE
from medssl_monai.ingest.slice_dataset import SliceDataset
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.phantom import write_phantom
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.transforms import LabelledViewd

METHODS = ("spark", "swav", "moco", "byol")
BUDGET = {"arch": "resnet18", "image_size": 64, "batch_size": 16, "guard_interval": 1000, "probe_interval": 1000}


def judge(encoder: torch.nn.Module, learn: Any, test: Any) -> dict[str, float]:
    """Balanced accuracy of both probes on the test patients."""
    view = LabelledViewd("image", image_size=64, window="wide", mean=0.25, std=0.25, augment=False)
    parts = []
    for data, split in ((learn, "train"), (test, "test")):
        rows = data.rows(split)
        features = encoder_features(encoder, SliceDataset(data.store, rows=rows, transform=view))
        parts.append((features, np.array([row["label"] for row in rows])))
    (train_x, train_y), (test_x, test_y) = parts
    probes = {
        "knn": make_pipeline(Normalizer(), KNeighborsClassifier(5)),
        "linear": make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
    }
    return {n: balanced_accuracy(test_y, p.fit(train_x, train_y).predict(test_x)) for n, p in probes.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    os.environ[KEY_VARIABLE] = "phantom: nobody's images"
    out: Path = options.out
    labels = write_phantom(out / "phantom", patients=40, seed=1, size=64, slices=9)
    rows = read_labels(labels).rows
    for split in ("train", "test"):
        sources = sorted({Path(row.source) for row in rows if row.split == split})
        ingest(sources, out / split, modality="CT", progress=False)
    learn, test = (LabelledData(labels, out / split) for split in ("train", "test"))
    found: dict[str, list[dict[str, float]]] = {}
    started = time.monotonic()
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        found.setdefault("random", []).append(judge(resnet_encoder("resnet18"), learn, test))
        for method in METHODS:
            run = out / f"{method}-{seed}"
            files = [bundle_dir(f"ct_ssl_{method}") / "configs" / "train.yaml", config_file("demo")]
            where = {"dataset_dir": str(out / "train"), "output_dir": str(run), "seed": seed, "device": "cpu"}
            run_bundle(files, {**where, **BUDGET, "max_epochs": options.epochs})
            encoder = resnet_encoder("resnet18")
            load_into_resnet(encoder, run)
            found.setdefault(method, []).append(judge(encoder, learn, test))
    for probe in ("knn", "linear"):
        print(f"\n{probe}: balanced accuracy on 16 test patients, {options.seeds} seeds")
        for name, figures in found.items():
            values = [f[probe] for f in figures]
            line = f"  {name:8s} {statistics.mean(values):.3f}"
            if name != "random":
                gains = [v - r[probe] for v, r in zip(values, found["random"], strict=True)]
                line += f"  difference {statistics.mean(gains):+.3f} (each: {', '.join(f'{g:+.3f}' for g in gains)})"
            print(line)
    print(
        f"{(time.monotonic() - started) / 60:.1f} minutes, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )
    (out / "results.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
