"""Whether one classifier is better than another on the same patients.

Shapes: N slices, C classes, M positives, K negatives, P patients.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from medssl_monai.statistics.intervals import MIN_PATIENTS
from medssl_monai.statistics.metrics import balanced_accuracy

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
Metric = Callable[[Ints, Floats], float]


@dataclass(frozen=True)
class DeLong:
    """Two areas under ROC curves on the same cases: both areas, the variance of their difference, z and two-sided p."""

    first: float
    second: float
    variance: float
    z: float
    p: float


def delong_test(positive: npt.NDArray[np.bool_], first: Floats, second: Floats) -> DeLong:
    """DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837), with midranks as Sun and Xu 2014.

    The test takes its cases to be independent: give one score a patient, not slices.

    Args:
        positive: (N,) truth.
        first: (N,) scores of one classifier, larger for positives.
        second: (N,) scores of the other.

    Raises:
        ValueError: fewer than two positives or two negatives.
    """
    m, k = int(positive.sum()), int((~positive).sum())
    if min(m, k) < 2:
        raise ValueError(f"delong_test: needs two positive and two negative cases, found {m} and {k}; add cases")
    components = [_structural_components(positive, scores) for scores in (first, second)]
    areas = [float(ups.mean()) for ups, _ in components]
    contrast = np.array([1.0, -1.0])
    covariance = np.cov([ups for ups, _ in components]) / m + np.cov([downs for _, downs in components]) / k
    variance = max(0.0, float(contrast @ covariance @ contrast))
    difference = areas[0] - areas[1]
    # Without variance the scores rank alike (no difference, p = 1), or differ in every pair the same way (p = 0).
    if variance > 1e-16:
        z = difference / np.sqrt(variance)
    else:
        z = 0.0 if difference == 0 else float(np.copysign(np.inf, difference))
    return DeLong(areas[0], areas[1], variance, float(z), float(2 * norm.sf(abs(z))))


def _structural_components(positive: npt.NDArray[np.bool_], scores: Floats) -> tuple[Floats, Floats]:
    """For each positive (M,) the share of negatives below it, for each negative (K,) the share of positives above."""
    ups, downs = scores[positive], scores[~positive]
    among_all = rankdata(np.concatenate([ups, downs]))
    above = (among_all[: len(ups)] - rankdata(ups)) / len(downs)
    below = 1 - (among_all[len(ups) :] - rankdata(downs)) / len(ups)
    return above, below


@dataclass(frozen=True)
class Comparison:
    """Difference of a figure (first − second), its two-sided p, and how it was found; p None where patients are few."""

    difference: float
    p: float | None
    patients: int
    note: str


def paired_permutation(
    labels: Ints,
    first: Floats,
    second: Floats,
    patients: npt.ArrayLike,
    *,
    metric: Metric | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Exchange the two classifiers' answers patient by patient: if they were alike, the exchange would not matter.

    All 2^P exchanges are tried where they are no more than ``permutations``, else so many random ones, and the one as
    observed is counted among them (Phipson and Smyth 2010), so that p is never 0.

    Args:
        labels: (N,) class indices.
        first: (N, C) probabilities of one classifier.
        second: (N, C) of the other.
        patients: per slice.
        metric: (labels, probabilities) -> figure; by default the balanced accuracy, which is exchanged fast.
        permutations: at most.
        seed: of the draws.
    """
    judge = metric or (lambda y, p: balanced_accuracy(y, p.argmax(axis=1)))
    observed = judge(labels, first) - judge(labels, second)

    def exchanged(owner: Ints, flips: npt.NDArray[np.bool_]) -> Floats:
        if metric is None:
            rights = [(p.argmax(axis=1) == labels).astype(np.float64) for p in (first, second)]
            return _exchanged_balanced_accuracy(labels, rights[0] - rights[1], owner, flips)
        return np.array([_exchanged(judge, labels, first, second, flip[owner]) for flip in flips])

    return _permuted(observed, patients, exchanged, permutations, seed)


def paired_label_permutation(
    labels: npt.NDArray[np.bool_],
    first: npt.NDArray[np.bool_],
    second: npt.NDArray[np.bool_],
    patients: npt.ArrayLike,
    *,
    permutations: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """`paired_permutation` of the balanced accuracy of labels that do not exclude each other.

    Only labels that have both answers among the slices count: their mean of sensitivity and specificity.

    Args:
        labels: (N, C) what holds.
        first: (N, C) what one classifier said.
        second: (N, C) what the other said.
        patients: per slice.
        permutations: at most.
        seed: of the draws.
    """
    kept = np.flatnonzero(labels.any(axis=0) & ~labels.all(axis=0))
    truth = labels[:, kept]
    kinds = (2 * np.arange(len(kept)) + truth).ravel()  # a label's no and yes are a kind each
    gains = ((first[:, kept] == truth).astype(np.float64) - (second[:, kept] == truth)).ravel()

    def exchanged(owner: Ints, flips: npt.NDArray[np.bool_]) -> Floats:
        return _exchanged_balanced_accuracy(kinds, gains, np.repeat(owner, len(kept)), flips)

    owner = np.zeros(len(labels), dtype=np.int64)
    observed = float(exchanged(owner, np.zeros((1, 1), dtype=bool))[0]) if len(kept) else 0.0
    return _permuted(observed, patients, exchanged, permutations, seed)


def _permuted(
    observed: float,
    patients: npt.ArrayLike,
    exchanged: Callable[[Ints, npt.NDArray[np.bool_]], Floats],
    permutations: int,
    seed: int,
) -> Comparison:
    """The place of the observed difference among those after exchanges, given by (patient of a slice, flips)."""
    names, owner = np.unique(np.asarray(patients, dtype=np.str_), return_inverse=True)
    count = len(names)
    if count < MIN_PATIENTS:
        note = f"{count} patients, fewer than {MIN_PATIENTS}: no test"
        return Comparison(observed, None, count, note)
    exact = 2**count <= permutations
    if exact:
        flips = np.array(list(product([False, True], repeat=count)))
    else:
        flips = np.random.Generator(np.random.Philox(seed)).random((permutations, count)) < 0.5
    differences = exchanged(owner, flips)
    extreme = int((np.abs(differences) >= abs(observed) - 1e-12).sum())
    p = extreme / len(flips) if exact else (extreme + 1) / (len(flips) + 1)
    how = "all" if exact else "random"
    return Comparison(observed, float(p), count, f"paired permutation by patient, {len(flips)} {how} exchanges")


def _exchanged(judge: Metric, labels: Ints, first: Floats, second: Floats, swap: npt.NDArray[np.bool_]) -> float:
    """Difference of the figure after exchanging the answers for some slices."""
    return judge(labels, np.where(swap[:, None], second, first)) - judge(labels, np.where(swap[:, None], first, second))


def _exchanged_balanced_accuracy(kinds: Ints, gains: Floats, owner: Ints, flips: npt.NDArray[np.bool_]) -> Floats:
    """Balanced accuracy is linear in hits: exchanging a patient changes the sign of that patient's part of it.

    ``kinds`` are what the hits are averaged within first (classes), ``gains`` one's hits less the other's.
    """
    present, place, slices = np.unique(kinds, return_inverse=True, return_counts=True)
    weights = 1 / (slices[place] * len(present))
    parts = np.bincount(owner, gains * weights, minlength=flips.shape[1])  # (P,)
    return np.asarray(np.where(flips, -1.0, 1.0) @ parts)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979, Scand. J. Stat. 6:65): controls the chance of any false discovery."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(p) for p in adjusted]
