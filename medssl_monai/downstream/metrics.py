"""Figures of merit of a classifier, from its probabilities; scikit-learn's definitions throughout."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, recall_score, roc_auc_score

__all__ = ["balanced_accuracy", "classification_metrics", "per_patient"]

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


def balanced_accuracy(labels: Ints, predicted: Ints) -> float:
    """Mean recall over the classes that occur in ``labels``.

    Unlike scikit-learn's function of that name it is silent when a prediction names a class that does not occur, the
    usual case for a single patient.
    """
    present = np.unique(labels)
    return float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0))


def classification_metrics(labels: Ints, probabilities: Floats, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, macro F1, macro one-vs-rest AUC, recall by class, confusion matrix.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C), rows sum to one.
        classes: C names.

    Returns:
        JSON-ready; ``auc`` is None where the labels hold fewer than two classes, and is averaged over those that occur.
    """
    predicted = probabilities.argmax(axis=1)
    present = np.unique(labels)
    recalls = recall_score(labels, predicted, labels=np.arange(len(classes)), average=None, zero_division=0)
    return {
        "slices": len(labels),
        "accuracy": float(accuracy_score(labels, predicted)),
        "balanced_accuracy": balanced_accuracy(labels, predicted),
        "f1_macro": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
        "auc": _macro_auc(labels, probabilities),
        "recall": {classes[c]: float(recalls[c]) for c in present},
        "confusion_matrix": confusion_matrix(labels, predicted, labels=np.arange(len(classes))).tolist(),
    }


def _macro_auc(labels: Ints, probabilities: Floats) -> float | None:
    present = np.unique(labels)
    if len(present) < 2:
        return None
    return float(np.mean([roc_auc_score(labels == c, probabilities[:, c]) for c in present]))


def per_patient(
    labels: Ints, probabilities: Floats, patients: Sequence[str], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`classification_metrics` of each patient, in sorted order."""
    owners = np.asarray(patients)
    return {
        str(p): classification_metrics(labels[owners == p], probabilities[owners == p], classes)
        for p in np.unique(owners)
    }
