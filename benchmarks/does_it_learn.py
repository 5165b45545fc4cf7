"""Does each method learn anything? Frozen features after a small budget against those of a random encoder.

    python benchmarks/does_it_learn.py phantom --out DIR [--seeds 5] [--methods spark swav moco byol]
    python benchmarks/does_it_learn.py samples --samples SAMPLES --out DIR
    python benchmarks/does_it_learn.py phantom --out DIR --slices 45 --stride 5 --epoch-length 34 --methods moco \
        --settings other_series negatives=other_series --settings neighbour positives=neighbour-25mm

`phantom`: 100 synthetic patients; each method is pre-trained on 60 of them without labels (configs/small.yaml, `EPOCHS`
of 34 steps), once a seed. A kNN (cosine, k = 5) and a logistic regression then learn from the labelled slices of two,
of six and of all 60, and are judged on the other 40. Two and six are drawn without overlap, 30 and 10 times, and the
draws averaged: the same draws for every encoder. `samples`: the same with the three training patients of
`medssl sample-data`; 2 or 10 slices a class are drawn 20 times, and each of the three test patients is judged alone.

Each probe is asked twice: of the test slices as scanned, and of the same slices moved (each turned by up to 20°,
shifted by up to a tenth of the field and scaled by 0.8 to 1.33, drawn once), as another table position and field of
view would.

Each `--settings NAME KEY=VALUE ...` trains every method once more with these keys of its bundle, as METHOD-NAME. With
channels from neighbouring slices (`channel_spacing_mm`) the probes and a second random encoder see them too. With
`--slices 45` neighbours lie about 20 mm apart instead of 100; `--stride 5` labels and tests as many slices as before,
and `--epoch-length 34` keeps the number of steps.

Prints balanced accuracy (of one patient: accuracy over the patient's slices), mean and standard deviation over seeds,
and the paired difference from the random encoder of the same seed. A stopped run carries on.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from monai.transforms import Compose
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from medssl_monai.checkpoints.load import load_into_resnet
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.probes import encoder_features
from medssl_monai.ingest import build_store
from medssl_monai.labels.table import read_labels
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.statistics.metrics import balanced_accuracy
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.transforms import LabelledViewd

PUBLIC_KEY = b"medssl-monai benchmark: public images only"
METHODS = ("spark", "swav", "moco", "byol")
EPOCHS = {"spark": 60, "swav": 30, "moco": 30, "byol": 9}
SETTINGS: dict[str, dict[str, Any]] = {"moco": {"learning_rate": 0.1}}
PROBES: dict[str, Callable[[int], Any]] = {
    "knn": lambda n: make_pipeline(Normalizer(), KNeighborsClassifier(min(5, n))),
    "linear": lambda n: make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
}
Part = tuple[np.ndarray, np.ndarray, np.ndarray]  # features, labels, patients


class Moved:
    """Turns, shifts and scales a slice's view (1, H, W) by what the slice's number draws; air around it."""

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """The item with its view moved."""
        draw = np.random.default_rng(int(item["index"]))
        angle, scale = np.deg2rad(draw.uniform(-20, 20)), draw.uniform(0.75, 1.25)
        (x, y), cos, sin = draw.uniform(-0.2, 0.2, 2), np.cos(angle) * scale, np.sin(angle) * scale
        view = torch.as_tensor(item["image"])[None]
        grid = torch.nn.functional.affine_grid(
            torch.tensor([[[cos, -sin, x], [sin, cos, y]]], dtype=torch.float32), list(view.shape), align_corners=False
        )
        air = -1.0  # what the window below makes of it
        return {
            **item,
            "image": torch.nn.functional.grid_sample(view - air, grid, align_corners=False)[0] + air,
        }


def part(
    encoder: torch.nn.Module, data: LabelledData, split: str, moved: bool = False, stride: int = 1, spacing: float = 0
) -> Part:
    """Features of a split's labelled slices, or of every `stride`-th; with a `spacing`, neighbours are channels."""
    view: Any = LabelledViewd(
        "image", image_size=64, window="wide", mean=0.25, std=0.25, augment=False, channel_spacing_mm=spacing
    )
    rows = data.rows(split)[::stride]
    transform = Compose([view, Moved()]) if moved else view
    slices = SliceDataset(data.store, rows=rows, transform=transform, channel_spacing_mm=spacing)
    features = encoder_features(encoder, slices)
    return features, np.array([row["label"] for row in rows]), np.array([row["patient"] for row in rows])


def patient_draws(labels: np.ndarray, patients: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Which slices are labelled: those of 2, of 6 and of all patients, in draws that do not overlap."""
    names = np.random.default_rng(0).permutation(np.unique(patients))
    for count in (2, 6, len(names)):
        groups = [names[i : i + count] for i in range(0, len(names) - count + 1, count)]
        yield f"{count} patients", [np.flatnonzero(np.isin(patients, group)) for group in groups]


def slice_draws(labels: np.ndarray, patients: np.ndarray) -> Iterator[tuple[str, list[np.ndarray]]]:
    """2 and 10 slices a class, 20 times each, and all."""
    random = np.random.default_rng(0)
    for count in (2, 10):
        draws = [
            np.concatenate(
                [random.choice(np.flatnonzero(labels == c), count, replace=False) for c in np.unique(labels)]
            )
            for _ in range(20)
        ]
        yield f"{count} slices a class", draws
    yield f"all {len(labels)} slices", [np.arange(len(labels))]


def judge(
    learn: Part,
    test: Part,
    draws: Callable[..., Any],
    alone: bool,
    sizes: int | None = None,
    probes: Iterable[str] = tuple(PROBES),
) -> dict[str, float]:
    """Probes of the first `sizes` numbers of labels (all by default) on the test patients, together or each alone."""
    x, y, patients = learn
    figures: dict[str, float] = {}
    for size, choices in islice(draws(y, patients), sizes):
        for probe, make in ((name, PROBES[name]) for name in probes):
            found: dict[str, list[float]] = {}
            for chosen in choices:
                guess = make(len(chosen)).fit(x[chosen], y[chosen]).predict(test[0])
                if not alone:
                    found.setdefault("all", []).append(balanced_accuracy(test[1], guess))
                for number, patient in enumerate(np.unique(test[2]) if alone else []):
                    his = test[2] == patient
                    found.setdefault(f"patient {number + 1}", []).append(float((guess == test[1])[his].mean()))
            for who, values in found.items():
                figures[f"{size} | {probe} | {who}"] = statistics.mean(values)
    return figures


def prepare(options: argparse.Namespace) -> tuple[Path, Path, Path]:
    """The label table and the stores of training and test patients."""
    out = options.out
    labels = out / "phantom" / "labels.csv"
    if options.data == "phantom" and not labels.exists():
        write_phantom(out / "phantom", patients=options.patients, seed=1, size=64, slices=options.slices)
    if options.data == "samples":
        labels = options.samples / "labels.csv"
    rows = read_labels(labels).rows
    for split in ("train", "test"):
        sources = sorted({Path(row.source) for row in rows if row.split == split})
        build_store(sources, out / split, key=PUBLIC_KEY, modality="CT", progress=False)
    return labels, out / "train", out / "test"


def show(found: dict[str, list[dict[str, float]]]) -> None:
    """Tables: mean and standard deviation over seeds, difference from the random encoder of the same seed."""
    widest = max(map(len, found))
    for figure in found["random"][0]:
        print(f"\n{figure}")
        for name, seeds in found.items():
            values = [f[figure] for f in seeds]
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            line = f"  {name:{widest}s} {statistics.mean(values):.3f} (sd {spread:.3f})"
            if name != "random":
                gains = [v - r[figure] for v, r in zip(values, found["random"], strict=True)]
                sd = statistics.stdev(gains) if len(gains) > 1 else float("nan")
                wins = sum(g > 0 for g in gains)
                line += f"  difference {statistics.mean(gains):+.3f} (sd {sd:.3f}), above in {wins} of {len(gains)}"
            print(line)


def _keys(pairs: Iterable[str]) -> dict[str, Any]:
    """KEY=VALUE as `medssl pretrain` reads them."""
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("phantom", "samples"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=Path, help="what `medssl sample-data --out` made")
    parser.add_argument("--patients", type=int, default=100, help="of the phantom")
    parser.add_argument("--slices", type=int, default=9, help="of each of its patients")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="seed; several processes may share the seeds of one --out")
    parser.add_argument("--epochs", type=int, help=f"of each method; by default {EPOCHS}")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--epoch-length", type=int, help="steps; by default a pass over the slices")
    parser.add_argument("--stride", type=int, default=1, help="label and test every n-th slice")
    parser.add_argument("--settings", nargs="+", action="append", default=[], metavar=("NAME", "KEY=VALUE"))
    parser.add_argument("--amp", action="store_true", help="pre-train in bfloat16")
    options = parser.parse_args()
    if options.data == "samples" and options.samples is None:
        parser.error("samples: give --samples DIR, the folder that `medssl sample-data --out DIR` made")
    warnings.simplefilter("ignore", ConvergenceWarning)
    labels, train, test = prepare(options)
    sides = [
        (LabelledData(labels, place, key=PUBLIC_KEY), split) for place, split in ((train, "train"), (test, "test"))
    ]
    variants = [("", {}), *((f"-{name}", _keys(pairs)) for name, *pairs in options.settings)]
    draws, alone = (patient_draws, False) if options.data == "phantom" else (slice_draws, True)
    found: dict[str, list[dict[str, float]]] = {}
    started = time.monotonic()

    def look(name: str, encoder: torch.nn.Module, spacing: float = 0) -> None:
        learn = part(encoder, *sides[0], stride=options.stride, spacing=spacing)
        figures: dict[str, float] = {}
        for how in ("as scanned", "moved"):
            unseen = part(encoder, *sides[1], moved=how == "moved", stride=options.stride, spacing=spacing)
            figures |= {f"{key} | {how}": value for key, value in judge(learn, unseen, draws, alone).items()}
        found.setdefault(name, []).append(figures)

    for seed in range(options.first, options.first + options.seeds):
        for name, own in variants:
            if not name or "channel_spacing_mm" in own:
                torch.manual_seed(seed)
                look(f"random{name}", resnet_encoder("resnet18"), own.get("channel_spacing_mm", 0))
        for method, (name, own) in product(options.methods, variants):
            named = f"{method}{name}"
            run = options.out / f"{named}-{seed}"
            settings = {
                "seed": seed,
                "device": "cpu",
                "max_epochs": options.epochs or EPOCHS[method],
                "epoch_length": options.epoch_length,
                "guard_interval": 1000,
                "probe_interval": 1000,
                "amp": options.amp,
                **SETTINGS.get(method, {}),
                **own,
            }
            pretrain(method, train, run, config="small", **settings)
            encoder = resnet_encoder("resnet18")
            load_into_resnet(encoder, run)
            look(named, encoder, own.get("channel_spacing_mm", 0))
        (options.out / "results.json").write_text(json.dumps(found, indent=2))
    show(found)
    minutes = (time.monotonic() - started) / 60
    print(f"\n{minutes:.1f} minutes, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
