"""Do measures without labels tell which checkpoint is good? Their rank correlation with a probe on few labels.

    python benchmarks/rank_checkpoints.py --out DIR [--steps 200] [--seeds 2] [--methods spark swav moco byol]

Each method is pre-trained by configs/small.yaml on the 60 training patients that does_it_learn.py prepares, once a
seed. `--checkpoints` encoders are kept on the way (`keep_interval`), each with the measures of
`medssl_monai.classify.label_free`. A logistic regression on its features learns from the labelled slices of two
patients (30 draws) and is judged on every third slice of the 40 other patients, as scanned and moved
(does_it_learn.py). Prints markdown: a measure a row, turned so that more is better, and for each kind of test slices

- *within runs*: Spearman correlation over the checkpoints of a run, mean over runs;
- *all*: over all checkpoints of all runs;
- *gain*: balanced accuracy of the checkpoint that the measure chooses, less that of the last, mean over runs.

In brackets the 95 % percentile bootstrap over runs. Two rows are to compare with: the epoch (later is better) and the
training loss, which has no common scale between methods. A stopped benchmark carries on; `--finished` prints what the
runs that are finished tell.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from does_it_learn import METHODS, PUBLIC_KEY, SETTINGS, Part, judge, part, patient_draws, prepare
from scipy.stats import ConstantInputWarning, spearmanr
from sklearn.exceptions import ConvergenceWarning

from medssl_monai.atomic import write_json
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.runs.folder import kept_encoder
from medssl_monai.runs.pretrain import PretrainedRun, pretrain
from medssl_monai.runs.step_log import read_rows
from medssl_monai.statistics.encoder_measures import MEASURES

TESTS = ("as scanned", "moved")
RESAMPLES = 2_000
Checkpoints = list[dict[str, Any]]


def trained(method: str, seed: int, options: argparse.Namespace) -> PretrainedRun:
    """A run with its kept encoders, made unless it is there."""
    run = PretrainedRun(options.out / f"{method}-{seed}")
    if run.encoder.is_file():
        return run
    length = options.steps // options.checkpoints
    settings = {"epoch_length": length, "max_epochs": options.checkpoints, "keep_interval": 1, "seed": seed}
    settings |= {
        "device": "cpu",
        "guard_interval": 1000,
        "probe_interval": 1000,
        "amp": options.amp,
        **SETTINGS.get(method, {}),
    }
    return pretrain(method, options.out / "train", run.folder, config="small", **settings)


def probed(encoder: torch.nn.Module, sides: Sequence[LabelledData]) -> dict[str, float]:
    """Balanced accuracy with the labels of two patients, for each of `TESTS`."""
    learn = part(encoder, sides[0], "train")
    found = {}
    for how in TESTS:
        test: Part = part(encoder, sides[1], "test", moved=how == "moved", stride=3)
        (found[how],) = judge(learn, test, patient_draws, False, sizes=1, probes=("linear",)).values()
    return found


def checkpoints(run: PretrainedRun, sides: Sequence[LabelledData]) -> Checkpoints:
    """The measures of each kept encoder, its epoch and loss, and what the probe finds."""
    path = run.folder / "downstream.json"
    known: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.is_file() else {}
    losses = {row["step"]: row["loss"] for row in read_rows(run.folder / "logs" / "history.jsonl")}
    rows = []
    for row in run.measures:
        epoch, length = row["epoch"], row["step"] // row["epoch"]
        if str(epoch) not in known:
            encoder = resnet_encoder("resnet18", encoder_weights=kept_encoder(run.folder, epoch))
            known[str(epoch)] = probed(encoder, sides)
            write_json(path, known)
        loss = statistics.mean(losses[row["step"] - i] for i in range(length))
        measures = {name: measure.order(row[name]) for name, measure in MEASURES.items()}
        rows.append({**measures, "epoch": epoch, "training loss": -loss, **known[str(epoch)]})
    return rows


def correlation(rows: Checkpoints, measure: str, how: str) -> float:
    """Spearman's, over checkpoints; 0 where a measure is the same for all."""
    value = float(spearmanr([row[measure] for row in rows], [row[how] for row in rows]).statistic)
    return 0.0 if np.isnan(value) else value


def pooled_correlation(runs: Sequence[Checkpoints], measure: str, how: str) -> float:
    """Over the checkpoints of all runs."""
    return correlation(list(chain.from_iterable(runs)), measure, how)


def gain(rows: Checkpoints, measure: str, how: str) -> float:
    """Of the checkpoint that the measure chooses over the last."""
    return float(max(rows, key=lambda row: row[measure])[how] - rows[-1][how])


def with_interval(runs: Sequence[Any], figure: Callable[[Sequence[Any]], float]) -> str:
    """A figure of the runs, with its interval over resampled runs."""
    draws = np.random.default_rng(0).integers(len(runs), size=(RESAMPLES, len(runs)))
    low, high = np.quantile([figure([runs[i] for i in draw]) for draw in draws], [0.025, 0.975])
    return f"{figure(runs):+.3f} ({low:+.3f} to {high:+.3f})"


def table(runs: list[Checkpoints], how: str) -> str:
    """A measure a row."""
    lines = ["| measure | within runs | all | gain over the last |", "|---|---|---|---|"]
    for measure in (*MEASURES, "epoch", "training loss"):
        within = with_interval([correlation(rows, measure, how) for rows in runs], statistics.fmean)
        won = with_interval([gain(rows, measure, how) for rows in runs], statistics.fmean)
        pooled = "–"
        if measure != "training loss":
            pooled = with_interval(runs, partial(pooled_correlation, measure=measure, how=how))
        lines.append(f"| {measure.replace('_', ' ')} | {within} | {pooled} | {won} |")
    best = with_interval([max(row[how] for row in rows) - rows[-1][how] for rows in runs], statistics.fmean)
    return "\n".join([*lines, f"| best checkpoint, by the probe itself | | | {best} |"])


def main() -> None:
    """Train, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--checkpoints", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--patients", type=int, default=100, help="of the phantom")
    parser.add_argument("--slices", type=int, default=9, help="of each of its patients")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--amp", action="store_true", help="pre-train in bfloat16")
    parser.add_argument("--finished", action="store_true", help="train nothing, print what is there")
    options = parser.parse_args()
    options.data = "phantom"
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    warnings.simplefilter("ignore", ConstantInputWarning)
    started = time.process_time()
    labels, train, test = prepare(options)
    sides = [LabelledData(labels, store, key=PUBLIC_KEY) for store in (train, test)]
    runs = {}
    for seed in range(options.seeds):
        for method in options.methods:
            if not options.finished or (options.out / f"{method}-{seed}" / "models" / "encoder.safetensors").is_file():
                runs[f"{method}-{seed}"] = checkpoints(trained(method, seed, options), sides)
    write_json(options.out / "checkpoints.json", runs)
    for how in TESTS:
        print(f"\nTest patients {how}:\n\n{table(list(runs.values()), how)}")
    print("\n| run | " + " | ".join(f"epoch {row['epoch']}" for row in next(iter(runs.values()))) + " |")
    print("|---|" + "---|" * options.checkpoints)
    for name, rows in runs.items():
        print(f"| {name} | " + " | ".join(" / ".join(f"{row[how]:.3f}" for how in TESTS) for row in rows) + " |")
    minutes = (time.process_time() - started) / 60
    print(f"\n{len(runs)} runs of {options.steps} steps; {minutes:.1f} core-minutes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
