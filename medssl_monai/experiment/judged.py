"""Answers on the test slices: several seeds together, their intervals over patients, and tests against the baseline."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.experiment.inputs import StudyInputs
from medssl_monai.experiment.plan import StudyPlan
from medssl_monai.statistics.comparison import (
    Comparison,
    delong_test,
    holm,
    paired_label_permutation,
    paired_permutation,
)
from medssl_monai.statistics.intervals import bootstrap_figures, described_intervals
from medssl_monai.statistics.multilabel import broadcast_thresholds, label_bootstrap


@dataclass(frozen=True)
class Judged:
    """Test slices of one or more cells.

    Attributes:
        labels: (N,), or of several (N, C).
        probabilities: (N, C).
        patients: (N,).
        folds: (N,) whose network answered; None if there is one for all slices.
    """

    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float64]
    patients: npt.NDArray[np.str_]
    folds: npt.NDArray[np.integer[Any]] | None = None


@dataclass(frozen=True)
class Contrast:
    """An encoder against the baseline: difference of balanced accuracy, its p and Holm's; None where not tested."""

    encoder: str
    head: str
    fraction: float
    difference: float
    p: float | None
    p_holm: float | None
    p_delong: float | None
    note: str


def _several(plan: StudyPlan) -> bool:
    return plan.settings.get("task") == "multilabel"


def _thresholds(plan: StudyPlan, classes: int) -> npt.NDArray[np.floating[Any]]:
    return broadcast_thresholds(plan.settings.get("thresholds", 0.5), classes)


def intervals(plan: StudyPlan, parts: Sequence[Judged]) -> dict[str, Any]:
    """Of the mean over ``parts``: each holds all test slices, and a resample draws the same patients of each."""
    cuts = _thresholds(plan, parts[0].probabilities.shape[1]) if _several(plan) else None

    def figures(owners: npt.NDArray[np.str_], resamples: int) -> dict[str, npt.NDArray[np.floating[Any]]]:
        drawn = []
        for part in parts:
            names = owners if (part.patients == "").any() else part.patients
            how: dict[str, Any] = {"resamples": resamples, "seed": 0, "folds": part.folds}
            drawn.append(
                bootstrap_figures(part.labels, part.probabilities, names, **how)
                if cuts is None
                else label_bootstrap(part.labels, part.probabilities, names, cuts, **how)
            )
        return {name: np.mean([one[name] for one in drawn], axis=0) for name in drawn[0]}

    return described_intervals(parts[0].patients, len(parts[0].labels), figures)


def draws(inputs: StudyInputs, seeds: Sequence[int], parts: Sequence[Judged]) -> list[Judged]:
    """What each judges all test slices: the seeds, or of a cross-validation the folds of a draw side by side."""
    if not inputs.folds:
        return list(parts)
    draws: dict[int, list[Judged]] = {}
    for seed, part in zip(seeds, parts, strict=True):
        draws.setdefault(seed // inputs.folds, []).append(part)
    whole = [folds for folds in draws.values() if len(folds) == inputs.folds] or [list(parts)]
    return [
        replace(stacked(folds), folds=np.repeat(np.arange(len(folds)), [len(one.labels) for one in folds]))
        for folds in whole
    ]


def read_judged(plan: StudyPlan, inputs: StudyInputs, folder: Path) -> Judged:
    """What an evaluation's ``predictions.csv`` says, without the contradicting pictures."""
    classes = inputs.classes
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["series_id"] not in inputs.contradicting]
    labels = (
        np.array([[c in r["label"].split("|") for c in classes] for r in rows])
        if _several(plan)
        else np.array([list(classes).index(r["label"]) for r in rows])
    )
    return Judged(
        labels,
        np.array([[float(r[f"p_{c}"]) for c in classes] for r in rows]),
        np.array([r["patient"] for r in rows]),
    )


def stacked(parts: Sequence[Judged]) -> Judged:
    """The seeds' answers one below another: a patient keeps his name, and is drawn or exchanged with all of them."""
    return Judged(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.probabilities for p in parts]),
        np.concatenate([p.patients for p in parts]),
    )


def contrasts_of(
    plan: StudyPlan, judged: dict[tuple[str, str, float], Judged], *, folds: bool = False
) -> list[Contrast]:
    """Each encoder against the baseline at each share of the labels, corrected over all of them together.

    Of the ``folds`` of a cross-validation there is no DeLong's test, which ranks the scores of one network.
    """
    found: list[tuple[tuple[str, str, float], Comparison, float | None]] = []
    for (head, encoder, fraction), mine in judged.items():
        if encoder == plan.baseline or (head, plan.baseline, fraction) not in judged:
            continue
        base = judged[head, plan.baseline, fraction]
        if (mine.patients == "").any():
            difference = _tested(plan, mine, base, np.full(len(mine.labels), "all")).difference
            comparison = Comparison(difference, None, 0, "patients unknown: no test")
        else:
            comparison = _tested(plan, mine, base, mine.patients)
        found.append(((encoder, head, fraction), comparison, None if folds else _delong(mine, base)))
    tested = [c.p for _, c, _ in found if c.p is not None]
    corrected = iter(holm(tested))
    return [
        Contrast(*key, c.difference, c.p, None if c.p is None else next(corrected), delong, c.note)
        for key, c, delong in found
    ]


def _tested(plan: StudyPlan, mine: Judged, base: Judged, patients: npt.NDArray[np.str_]) -> Comparison:
    if not _several(plan):
        return paired_permutation(mine.labels, mine.probabilities, base.probabilities, patients)
    cuts = _thresholds(plan, mine.probabilities.shape[1])
    return paired_label_permutation(mine.labels, mine.probabilities >= cuts, base.probabilities >= cuts, patients)


def _delong(mine: Judged, base: Judged) -> float | None:
    """DeLong's p for two classes where each patient has one label: one mean score a patient, two of each class."""
    if mine.labels.ndim == 2:
        return None
    names, owner = np.unique(mine.patients, return_inverse=True)
    truth = np.zeros(len(names), dtype=np.int64)
    truth[owner] = mine.labels
    several = "" in names or mine.probabilities.shape[1] != 2 or (truth[owner] != mine.labels).any()
    if several or min(truth.sum(), (1 - truth).sum()) < 2:
        return None
    scores = [np.bincount(owner, j.probabilities[:, 1]) / np.bincount(owner) for j in (mine, base)]
    return delong_test(truth == 1, scores[0], scores[1]).p
