"""Does pre-training learn sooner when near-copies are left out? Probes along trainings with and without `redundancy`.

    medssl sample-data --out SAMPLES
    python benchmarks/thinning.py samples --samples SAMPLES --out DIR [--rule hash-6] [--steps 60] [--seeds 1]
    python benchmarks/thinning.py phantom --patients 20 --slices 45 --out DIR

Each method is pre-trained on the training patients by configs/small.yaml, once on all slices and once on those that the
rule leaves, for the same number of steps with the same seed. Every `--every` steps the frozen encoder is probed: a
logistic regression learns from few labelled slices (samples: 2 a class, 20 draws; phantom: those of 2 patients) and is
judged on every `--stride`-th slice of other patients, turned, shifted and scaled as in does_it_learn.py. Prints
balanced accuracy (samples: accuracy, mean of the test patients) at each step, and when each training first reaches what
the one on all slices has at its end. Finished trainings are not repeated.
"""

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from does_it_learn import METHODS, PUBLIC_KEY, SETTINGS, judge, part, patient_draws, prepare, slice_draws
from ignite.engine import Engine, Events
from sklearn.exceptions import ConvergenceWarning

from medssl_monai.atomic import write_text
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.runs.pretrain import pretrain


def accuracy(encoder: torch.nn.Module, options: argparse.Namespace) -> float:
    """Of the probe, on the moved slices of the test patients."""
    labels, stores = options.labels, (options.out / "train", options.out / "test")
    sides = [LabelledData(labels, store, key=PUBLIC_KEY) for store in stores]
    learn = part(encoder, sides[0], "train", stride=options.stride)
    test = part(encoder, sides[1], "test", moved=True, stride=options.stride)
    draws, alone = (patient_draws, False) if options.data == "phantom" else (slice_draws, True)
    figures = judge(learn, test, draws, alone, sizes=1, probes=("linear",))
    return statistics.mean(figures.values())


class Looks:
    """A handler that probes an encoder every so many epochs; `trainings` adds it to a bundle by an overlay."""

    def __init__(self, encoder: torch.nn.Module, options: str, path: str) -> None:
        self.encoder, self.path = encoder, Path(path)
        content = json.loads(options)
        self.options = argparse.Namespace(**{**content, "out": Path(content["out"]), "labels": Path(content["labels"])})
        self.found: list[float] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Probe, and write what was found so far."""
        training = self.encoder.training
        with torch.random.fork_rng(devices=[]):
            self.found.append(accuracy(self.encoder, self.options))
        self.encoder.train(training)
        self.path.write_text(json.dumps(self.found))


def trained(method: str, rule: str, seed: int, options: argparse.Namespace) -> list[float]:
    """The accuracies along a training."""
    run = options.out / f"{method}-{rule}-{seed}"
    path = run.with_suffix(".json")
    if path.is_file() and len(found := json.loads(path.read_text())) == options.steps // options.every:
        return list(found)
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}
    looks = {"_target_": "thinning.Looks", "encoder": "@network_def", "options": json.dumps(shown), "path": str(path)}
    overlay = run.with_suffix(".yaml")
    write_text(overlay, json.dumps({"+train#handlers": [looks]}))  # JSON is YAML
    settings = {"epoch_length": options.every, "max_epochs": options.steps // options.every, "warmup_epochs": 1}
    settings |= {
        "guard_interval": 1000,
        "probe_interval": 1000,
        "seed": seed,
        "device": options.device,
        "resume": False,
    }
    settings |= SETTINGS.get(method, {})
    pretrain(method, options.out / "train", run, config=["small", overlay], redundancy=rule, **settings)
    return list(json.loads(path.read_text()))


def left(run: Path) -> str:
    """How many slices a training used."""
    data = json.loads((run / "run.json").read_text(encoding="utf-8"))["data"]
    return str(data.get("left after thinning", f"all {data['slices']} slices"))


def reached(curve: list[float], goal: float, every: int) -> str:
    """The first step at which a curve is at a goal."""
    return next((str(every * (i + 1)) for i, value in enumerate(curve) if value >= goal), "not reached")


def main() -> None:
    """Run and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=("phantom", "samples"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=Path, help="what `medssl sample-data --out` made")
    parser.add_argument("--patients", type=int, default=20, help="of the phantom")
    parser.add_argument("--slices", type=int, default=45, help="of each of its patients")
    parser.add_argument("--rule", default="hash-6")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=20, help="steps between two probes")
    parser.add_argument("--stride", type=int, default=3, help="of the slices that are probed")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    started = time.monotonic()
    options.labels, _, _ = prepare(options)
    columns = [options.every * (i + 1) for i in range(options.steps // options.every)]
    rows, random, used = [], [], {}
    for seed in range(options.seeds):
        torch.manual_seed(seed)
        random.append(accuracy(resnet_encoder("resnet18"), options))
    rows.append(["random", "–", f"{statistics.mean(random):.3f}", *["–"] * (len(columns) - 1), "–"])
    for method in options.methods:
        curves = {
            rule: [trained(method, rule, seed, options) for seed in range(options.seeds)]
            for rule in ("none", options.rule)
        }
        means = {rule: [statistics.mean(at) for at in zip(*found, strict=True)] for rule, found in curves.items()}
        for rule, curve in means.items():
            goal = reached(curve, means["none"][-1], options.every)
            rows.append([method, rule, *(f"{value:.3f}" for value in curve), goal])
            used[rule] = left(options.out / f"{method}-{rule}-0")
    head = ["encoder", "redundancy", *(f"step {at}" for at in columns), "first at the end of `none`"]
    lines = [head, ["---"] * len(head), *rows]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    minutes = (time.monotonic() - started) / 60
    print("\n" + "\n".join(f"{rule}: {slices}" for rule, slices in used.items()))
    print(f"seeds: {options.seeds}; {minutes:.1f} minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
