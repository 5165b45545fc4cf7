"""Does the band of a learning curve hold? The figure with all labels is predicted from those with 10 to 50 %.

    python benchmarks/learning_curve.py --out DIR [--encoders 10] [--draws 5]
    python benchmarks/learning_curve.py --results docs/results/covid_ct_small/results.csv --metric auc

The first form has the phantom (100 patients, as in does_it_learn.py) and random ResNet-18 encoders, frozen: a linear
probe and nearest neighbours learn from the slices of 10, 20, 30 and 50 % of the 60 training patients, whole patients,
nested in each of the draws, and of all. They are judged on the other 40 patients, as scanned and moved. The second form
reads what a study wrote. Prints how often the figure with all labels lies in the band, and how wide the band is.
"""

import argparse
import csv
import statistics
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from does_it_learn import PROBES, PUBLIC_KEY, part, prepare
from sklearn.exceptions import ConvergenceWarning

from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.statistics.learning_curve import learning_curve
from medssl_monai.statistics.metrics import balanced_accuracy

SHARES = (0.1, 0.2, 0.3, 0.5, 1.0)
Curve = dict[float, list[float]]
"""Figures of the draws by number of labels."""


def of_phantom(options: argparse.Namespace) -> Iterable[tuple[str, Curve]]:
    """A curve for each encoder, probe and kind of test."""
    options.data, options.patients, options.slices = "phantom", 100, 9
    labels, *stores = prepare(options)
    train, test = (LabelledData(labels, store, key=PUBLIC_KEY) for store in stores)
    for number in range(options.encoders):
        torch.manual_seed(number)
        encoder = resnet_encoder("resnet18")
        x, y, patients = part(encoder, train, "train")
        names = np.unique(patients)
        for how in ("as scanned", "moved"):
            features, truth, _ = part(encoder, test, "test", moved=how == "moved")
            for probe, make in PROBES.items():
                curve: Curve = {}
                for draw in range(options.draws):
                    order = np.random.default_rng(draw).permutation(names)
                    for share in SHARES:
                        chosen = np.isin(patients, order[: round(share * len(order))])
                        guess = make(int(chosen.sum())).fit(x[chosen], y[chosen]).predict(features)
                        count = round(share * len(order))
                        curve.setdefault(count, []).append(balanced_accuracy(truth, guess))
                yield f"random {number}, {probe}, {how}", curve


def of_study(path: Path, metric: str) -> Iterable[tuple[str, Curve]]:
    """A curve for each encoder and head of a study."""
    rows = [row for row in csv.DictReader(path.open(encoding="utf-8")) if row[metric]]
    for encoder, head in dict.fromkeys((row["encoder"], row["head"]) for row in rows):
        mine = [row for row in rows if (row["encoder"], row["head"]) == (encoder, head)]
        curve: Curve = {}
        for share in sorted({float(row["fraction"]) for row in mine}):
            of_share = [row for row in mine if float(row["fraction"]) == share]
            count = statistics.mean(float(row["train_slices"]) for row in of_share)
            curve[count] = [float(row[metric]) for row in of_share]
        yield f"{encoder}, {head}", curve


def main() -> None:
    """Print a line a curve, then how many bands hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--encoders", type=int, default=10)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--results", type=Path, help="results.csv of a study")
    parser.add_argument("--metric", default="balanced_accuracy")
    options = parser.parse_args()
    if (options.out is None) == (options.results is None):
        parser.error("give --out DIR for the phantom, or --results FILE of a study")
    warnings.simplefilter("ignore", ConvergenceWarning)
    curves = of_phantom(options) if options.out else of_study(options.results, options.metric)
    held, widths, errors = [], [], []
    for name, curve in curves:
        *counts, most = sorted(curve)
        fitted = learning_curve(counts, [curve[count] for count in counts])
        band, reached = fitted.at(most, seeds=len(curve[most])), statistics.mean(curve[most])
        held.append(band.low <= reached <= band.high)
        widths.append(band.high - band.low)
        errors.append(abs(band.value - reached))
        last = statistics.mean(curve[counts[-1]])
        print(
            f"{name}: {last:.3f} at half, {band.value:.3f} ({band.low:.3f} to {band.high:.3f}) foreseen, {reached:.3f}"
        )
    print(
        f"{sum(held)} of {len(held)} bands hold; width {statistics.mean(widths):.3f}, "
        f"error of the middle {statistics.mean(errors):.3f}"
    )


if __name__ == "__main__":
    main()
