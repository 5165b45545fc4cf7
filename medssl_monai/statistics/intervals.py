"""Bootstrap intervals that resample patients, because slices of one patient are not independent.

Shapes: N slices, C classes, P patients, R resamples, B bins.

Every figure is computed from sums over patients (confusion matrix, calibration bins) or from slices weighted by how
often their patient was drawn (AUC), so that a thousand resamples cost about as much as a few evaluations.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.statistics.calibration import BINS, bin_places

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
# With fewer, the percentiles of a bootstrap say more about who happened to be there than about the classifier.
MIN_PATIENTS = 10
RESAMPLES = 1000
LEVEL = 0.95


def patient_intervals(
    labels: Ints,
    probabilities: Floats,
    patients: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Any]:
    """Percentile intervals of the figures of `bootstrap_figures`, or a sentence that says why there are none.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C).
        patients: per slice; an empty name means unknown, and then each slice counts as a patient of its own.
        resamples: bootstrap samples.
        level: of the interval.
        seed: of the draws.

    Returns:
        ``unit``, ``patients``, ``note`` and, with `MIN_PATIENTS` or more, ``level``, ``resamples`` and ``figures``:
        name -> [low, high]; None for a figure that fewer than nine in ten resamples define.
    """

    def figures(owners: npt.NDArray[np.str_], resamples: int) -> dict[str, Floats]:
        return bootstrap_figures(labels, probabilities, owners, resamples=resamples, seed=seed)

    return described_intervals(patients, len(labels), figures, resamples=resamples, level=level)


def described_intervals(
    patients: npt.ArrayLike,
    slices: int,
    draw: Callable[[npt.NDArray[np.str_], int], dict[str, Floats]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Any]:
    """What `patient_intervals` returns, of figures (R,) that ``draw(owners, resamples)`` gives by name."""
    owners = np.asarray(patients, dtype=np.str_)
    known = bool((owners != "").all())
    if not known:
        owners = np.arange(slices).astype(np.str_)
    count = len(np.unique(owners))
    found: dict[str, Any] = {"unit": "patients" if known else "images", "patients": count if known else None}
    if count < MIN_PATIENTS:
        found["note"] = (
            f"{count} {found['unit']}, fewer than {MIN_PATIENTS}: too few for an interval; read the figures by patient"
        )
        return found
    found["note"] = (
        f"{level:.0%} percentile bootstrap over {count} {found['unit']}"
        if known
        else f"patients unknown: {level:.0%} bootstrap over images; too narrow where images share a patient"
    )
    drawn = draw(owners, resamples)
    tail = 100 * (1 - level) / 2
    figures: dict[str, list[float] | None] = {}
    for name, values in drawn.items():
        valid = values[np.isfinite(values)]
        enough = len(valid) >= 0.9 * resamples
        figures[name] = [float(v) for v in np.percentile(valid, [tail, 100 - tail])] if enough else None
    return {**found, "level": level, "resamples": resamples, "figures": figures}


def bootstrap_figures(
    labels: Ints,
    probabilities: Floats,
    owners: npt.NDArray[np.str_],
    *,
    resamples: int,
    seed: int,
    folds: Ints | None = None,
) -> dict[str, Floats]:
    """Figures (R,) of resamples of patients, drawn with replacement; NaN where a resample does not define one.

    ``accuracy``, ``balanced_accuracy``, ``f1_macro`` and ``auc`` are those of `classification_metrics`, ``ece`` that of
    `expected_calibration_error`; macro means are over the classes that the resample holds.

    In a cross-validation each fold has a network of its own, whose scores must not be ranked against another's. With
    ``folds`` (N,) every figure is the mean of those of the folds; patients are drawn of all folds together.
    """
    owner, counts = bootstrap_counts(owners, resamples=resamples, seed=seed)
    return mean_over_folds(lambda rows: _figures(labels[rows], probabilities[rows], owner[rows], counts), folds)


def mean_over_folds(figures: Callable[[Any], dict[str, Floats]], folds: Ints | None) -> dict[str, Floats]:
    """Figures (R,) that ``figures(rows)`` gives of a fold's rows, averaged over the folds that define them."""
    if folds is None:
        return figures(slice(None))
    drawn = [figures(folds == fold) for fold in np.unique(folds)]
    columns = {name: np.stack([one[name] for one in drawn], axis=1) for name in drawn[0]}  # (R, folds)
    return {name: mean_where(values, np.isfinite(values)) for name, values in columns.items()}


def _figures(labels: Ints, probabilities: Floats, owner: Ints, counts: Ints) -> dict[str, Floats]:
    resamples, classes = len(counts), probabilities.shape[1]
    matrices = counts @ _sums(owner, labels * classes + probabilities.argmax(axis=1), counts.shape[1], classes**2)
    matrices = matrices.reshape(resamples, classes, classes)
    return {
        **_matrix_figures(matrices),
        "auc": _macro_auc(labels, probabilities, owner, counts),
        "ece": _calibration(labels, probabilities, owner, counts),
    }


def bootstrap_counts(owners: npt.NDArray[np.str_], *, resamples: int, seed: int) -> tuple[Ints, Ints]:
    """The place (N,) of each slice's patient, and how often each patient is drawn in each resample, (R, P)."""
    names, owner = np.unique(owners, return_inverse=True)
    generator = np.random.Generator(np.random.Philox(seed))
    return owner, generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)


def _sums(owner: Ints, cell: Ints, patients: int, cells: int, values: Floats | None = None) -> Floats:
    """(P, cells): the sum of ``values`` (or the number of slices) of each patient in each cell."""
    flat = np.bincount(owner * cells + cell, values, minlength=patients * cells)
    return np.asarray(flat.reshape(patients, cells), dtype=np.float64)


def _matrix_figures(matrices: Floats) -> dict[str, Floats]:
    """Figures (R,) from confusion matrices (R, C, C), truth down; NaN from an empty one."""
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    truth, predicted = matrices.sum(axis=2), matrices.sum(axis=1)
    present = truth > 0
    some, slices = (np.where(held.any(axis=1), held.sum(axis=1), np.nan) for held in (present, truth))
    recall = np.divide(hits, truth, out=np.zeros_like(hits), where=present)
    f1 = np.divide(2 * hits, truth + predicted, out=np.zeros_like(hits), where=present)
    return {
        "accuracy": hits.sum(axis=1) / slices,
        "balanced_accuracy": recall.sum(axis=1) / some,
        "f1_macro": f1.sum(axis=1) / some,
    }


def _macro_auc(labels: Ints, probabilities: Floats, owner: Ints, counts: Ints) -> Floats:
    """Macro one-against-the-rest AUC (R,); NaN where a resample holds fewer than two classes."""
    areas = [resampled_auc(labels == c, probabilities[:, c], owner, counts) for c in np.unique(labels)]
    return mean_where(np.stack(areas, axis=1), np.isfinite(np.stack(areas, axis=1)))


def mean_where(values: Floats, kept: npt.NDArray[np.bool_]) -> Floats:
    """Mean over the classes (R,) of the values (R, C) that are kept; NaN where none is."""
    total, count = np.where(kept, np.nan_to_num(values), 0).sum(axis=1), kept.sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0))


def resampled_auc(positive: npt.NDArray[np.bool_], scores: Floats, owner: Ints, counts: Ints) -> Floats:
    """AUC (R,) of resamples of patients, in portions with about four million weights.

    Args:
        positive: (N,) truth.
        scores: (N,), larger for positives.
        owner: (N,) place of each slice's patient, see `bootstrap_counts`.
        counts: (R, P).
    """
    rows = max(1, 4_000_000 // max(1, len(positive)))
    portions = (counts[i : i + rows, owner] for i in range(0, len(counts), rows))
    return np.concatenate([weighted_auc(positive, scores, portion) for portion in portions])


def weighted_auc(positive: npt.NDArray[np.bool_], scores: Floats, weights: Ints) -> Floats:
    """AUC (R,) of scores (N,) under weights (R, N): P(positive > negative) + P(tie) / 2; NaN without both."""
    order = np.argsort(scores, kind="stable")
    _, start = np.unique(scores[order], return_index=True)
    ups = np.add.reduceat((weights * positive)[:, order].astype(np.float64), start, axis=1)  # (R, distinct scores)
    downs = np.add.reduceat((weights * ~positive)[:, order].astype(np.float64), start, axis=1)
    below = np.cumsum(downs, axis=1) - downs / 2
    pairs = ups.sum(axis=1) * downs.sum(axis=1)
    found = np.divide((ups * below).sum(axis=1), pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
    return np.asarray(found)


def _calibration(labels: Ints, probabilities: Floats, owner: Ints, counts: Ints) -> Floats:
    """Expected calibration error (R,): the slices' number cancels, so that sums of (right − confidence) suffice."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == labels
    gaps = counts @ _sums(owner, bin_places(confidence), counts.shape[1], BINS, right - confidence)
    slices = counts @ np.bincount(owner, minlength=counts.shape[1])
    return np.asarray(np.abs(gaps).sum(axis=1) / np.where(slices > 0, slices, np.nan))
