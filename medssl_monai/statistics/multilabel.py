"""Figures of merit where several labels may hold at once: each is judged as a question with yes and no.

Shapes: N slices (or studies), C labels, P patients, R resamples.

Macro means are over the labels that have both answers among the slices; scikit-learn's definitions throughout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, f1_score, precision_recall_curve, roc_auc_score

from medssl_monai.errors import ConfigError
from medssl_monai.statistics.calibration import label_reliability
from medssl_monai.statistics.intervals import (
    bootstrap_counts,
    described_intervals,
    mean_over_folds,
    mean_where,
    resampled_auc,
)

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]


def multilabel_metrics(
    labels: Bools, probabilities: Floats, classes: Sequence[str], thresholds: Floats
) -> dict[str, Any]:
    """Figures over all labels and of each.

    ``accuracy`` is the share of right answers, yes or no (one minus Hamming's loss), ``exact_match`` the share of
    slices with all answers right, ``balanced_accuracy`` the mean of sensitivity and specificity. ``micro`` figures take
    all answers together. ``ece`` is the mean over labels of `label_reliability`'s error, ``log_loss`` the mean over all
    answers.

    Args:
        labels: (N, C) what holds.
        probabilities: (N, C), each in [0, 1] on its own.
        classes: C names.
        thresholds: (C,) from which probability on a label is said to hold.

    Returns:
        JSON-ready; a figure that no label defines is None. ``by_label`` has `label_figures` of each.
    """
    predicted = probabilities >= thresholds
    each = {
        name: label_figures(labels[:, c], probabilities[:, c], float(thresholds[c])) for c, name in enumerate(classes)
    }
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    both = bool(labels.any() and not labels.all())
    return {
        "slices": len(labels),
        "accuracy": float((predicted == labels).mean()),
        "exact_match": float((predicted == labels).all(axis=1).mean()),
        "balanced_accuracy": _macro(each, "balanced_accuracy"),
        "precision_macro": _macro(each, "precision"),
        "recall_macro": _macro(each, "recall"),
        "f1_macro": _macro(each, "f1"),
        "f1_micro": float(f1_score(labels, predicted, average="micro", zero_division=0)),
        "auc": _macro(each, "auc"),
        "auc_micro": float(roc_auc_score(labels.ravel(), probabilities.ravel())) if both else None,
        "average_precision": _macro(each, "average_precision"),
        "average_precision_micro": float(average_precision_score(labels.ravel(), probabilities.ravel()))
        if both
        else None,
        "ece": float(np.mean([figures["ece"] for figures in each.values()])),
        "log_loss": float(-np.where(labels, np.log(clipped), np.log1p(-clipped)).mean()),
        "by_label": each,
    }


def label_figures(holds: Bools, probability: Floats, threshold: float) -> dict[str, Any]:
    """Figures of one label: AUC, average precision, and at the threshold precision, recall, specificity, F1.

    ``confusion_matrix`` is [[true no, false yes], [false no, true yes]]. What needs both answers among the slices is
    None where there is only one.
    """
    said = probability >= threshold
    hits, misses = int((said & holds).sum()), int((~said & holds).sum())
    alarms, passes = int((said & ~holds).sum()), int((~said & ~holds).sum())
    both = bool(holds.any() and not holds.all())
    recall = hits / (hits + misses) if hits + misses else None
    specificity = passes / (passes + alarms) if passes + alarms else None
    return {
        "positives": hits + misses,
        "threshold": threshold,
        "auc": float(roc_auc_score(holds, probability)) if both else None,
        "average_precision": float(average_precision_score(holds, probability)) if both else None,
        "precision": hits / max(1, hits + alarms) if both else None,
        "recall": recall,
        "specificity": specificity,
        "balanced_accuracy": (recall + specificity) / 2
        if both and recall is not None and specificity is not None
        else None,
        "f1": 2 * hits / max(1, 2 * hits + misses + alarms) if both else None,
        "ece": label_reliability(holds, probability).error,
        "confusion_matrix": [[passes, alarms], [misses, hits]],
    }


def _macro(each: dict[str, dict[str, Any]], name: str) -> float | None:
    values = [figures[name] for figures in each.values() if figures["auc"] is not None]
    return float(np.mean(values)) if values else None


def broadcast_thresholds(thresholds: float | Sequence[float], classes: int) -> Floats:
    """One threshold for all labels, or one each, as (C,).

    Raises:
        ConfigError: their number is neither one nor that of the labels, or one lies outside [0, 1].
    """
    try:
        found = np.asarray(thresholds, dtype=np.float64)
    except (ValueError, TypeError):
        found = np.full(1, np.nan)
    if found.shape not in ((), (1,), (classes,)) or not ((found >= 0) & (found <= 1)).all():
        raise ConfigError(
            f"thresholds: one number in [0, 1], or one for each of the {classes} labels, found {thresholds!r}; "
            "give for instance 0.5"
        )
    return np.broadcast_to(found, (classes,)).astype(np.float64)


def best_thresholds(labels: Bools, probabilities: Floats) -> list[float]:
    """For each label the threshold with the largest F1 on these slices; 0.5 where it never holds.

    Fit them on validation slices: on the slices that are judged they would flatter. Of thresholds that are as good the
    midpoint between the lowest probability said to hold and the next one below is taken, so that they generalise.
    """
    found = []
    for holds, probability in zip(labels.T, probabilities.T, strict=True):
        if not holds.any():
            found.append(0.5)
            continue
        precision, recall, edges = precision_recall_curve(holds, probability)
        f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
        edge = float(edges[int(f1.argmax())])
        below = probability[probability < edge]
        found.append((edge + float(below.max(initial=0.0))) / 2)
    return found


def label_intervals(
    labels: Bools, probabilities: Floats, patients: npt.ArrayLike, thresholds: Floats, *, seed: int = 0
) -> dict[str, Any]:
    """As `patient_intervals`, of the macro figures of `multilabel_metrics`.

    A label counts in a resample that holds both its answers.
    """

    def figures(owners: npt.NDArray[np.str_], resamples: int) -> dict[str, Floats]:
        return label_bootstrap(labels, probabilities, owners, thresholds, resamples=resamples, seed=seed)

    return described_intervals(patients, len(labels), figures)


def label_bootstrap(
    labels: Bools,
    probabilities: Floats,
    owners: npt.NDArray[np.str_],
    thresholds: Floats,
    *,
    resamples: int,
    seed: int,
    folds: npt.NDArray[np.integer[Any]] | None = None,
) -> dict[str, Floats]:
    """Figures (R,) of resamples of patients, as `bootstrap_figures`, of several labels (N, C)."""
    owner, counts = bootstrap_counts(owners, resamples=resamples, seed=seed)

    def figures(rows: Any) -> dict[str, Floats]:
        return _label_figures(labels[rows], probabilities[rows], owner[rows], counts, thresholds)

    return mean_over_folds(figures, folds)


def _label_figures(
    labels: Bools,
    probabilities: Floats,
    owner: npt.NDArray[np.integer[Any]],
    counts: npt.NDArray[np.integer[Any]],
    thresholds: Floats,
) -> dict[str, Floats]:
    said = probabilities >= thresholds
    cells = {
        name: counts @ _by_owner(owner, counts.shape[1], cell)  # (R, C)
        for name, cell in (
            ("hits", said & labels),
            ("misses", ~said & labels),
            ("alarms", said & ~labels),
            ("passes", ~said & ~labels),
        )
    }
    yes, no = cells["hits"] + cells["misses"], cells["alarms"] + cells["passes"]
    both = (yes > 0) & (no > 0)
    balanced = (cells["hits"] / np.maximum(yes, 1) + cells["passes"] / np.maximum(no, 1)) / 2
    f1 = 2 * cells["hits"] / np.maximum(2 * cells["hits"] + cells["misses"] + cells["alarms"], 1)
    areas = np.stack(
        [resampled_auc(labels[:, c], probabilities[:, c], owner, counts) for c in range(labels.shape[1])], axis=1
    )
    answers = (yes + no).sum(axis=1)
    return {
        "accuracy": (cells["hits"] + cells["passes"]).sum(axis=1) / np.where(answers > 0, answers, np.nan),
        "balanced_accuracy": mean_where(balanced, both),
        "f1_macro": mean_where(f1, both),
        "auc": mean_where(areas, both),
    }


def _by_owner(owner: npt.NDArray[np.integer[Any]], patients: int, cell: Bools) -> Floats:
    """(P, C): how often each patient's slices fall into a cell."""
    sums = np.zeros((patients, cell.shape[1]))
    np.add.at(sums, owner, cell)
    return sums
