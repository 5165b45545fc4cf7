"""Figures of merit of a classifier, from its probabilities; scikit-learn's definitions throughout.

Shapes: N slices (or studies), C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import (
    accuracy_score,
    classification_report,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    recall_score,
    roc_auc_score,
)

from medssl_monai.statistics.calibration import expected_calibration_error

CHOICES = ("accuracy", "balanced_accuracy", "f1_macro", "auc", "log_likelihood")
"""What `figures_for_choice` gives."""

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]


def balanced_accuracy(labels: Ints, predicted: Ints) -> float:
    """Mean recall over the classes that occur in ``labels``.

    Unlike scikit-learn's function of that name it is silent when a prediction names a class that does not occur, the
    usual case for a single patient.
    """
    present = np.unique(labels)
    return float(recall_score(labels, predicted, labels=present, average="macro", zero_division=0))


def figures_for_choice(labels: npt.NDArray[Any], probabilities: Floats) -> dict[str, float]:
    """What a validation epoch is judged by, larger is better: a few figures that cost little.

    ``accuracy``, ``balanced_accuracy``, ``f1_macro``, ``auc`` (macro, over the classes that have both answers), and
    ``log_likelihood`` (mean). Several labels are judged at 0.5. AUC is NaN where no class has both answers.

    Args:
        labels: (N,) class indices, or (N, C) what holds of labels that do not exclude each other.
        probabilities: (N, C).
    """
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    if labels.ndim == 1:
        predicted = probabilities.argmax(axis=1)
        areas = list(_areas(labels, probabilities).values())
        present = np.unique(labels)
        return {
            "accuracy": float((labels == predicted).mean()),
            "balanced_accuracy": balanced_accuracy(labels, predicted),
            "f1_macro": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0)),
            "auc": float(np.mean(areas)) if areas else float("nan"),
            "log_likelihood": float(np.log(clipped[np.arange(len(labels)), labels]).mean()),
        }
    holds, said = labels > 0.5, probabilities >= 0.5
    both = holds.any(axis=0) & ~holds.all(axis=0)
    places = np.flatnonzero(both)
    balanced = [balanced_accuracy(holds[:, c].astype(int), said[:, c].astype(int)) for c in places]
    areas = [float(roc_auc_score(holds[:, c], probabilities[:, c])) for c in places]
    f1s = [float(f1_score(holds[:, c], said[:, c], zero_division=0)) for c in places]
    means = {
        name: float(np.mean(values)) if values else float("nan")
        for name, values in (("balanced_accuracy", balanced), ("auc", areas), ("f1_macro", f1s))
    }
    likelihood = float(np.where(holds, np.log(clipped), np.log1p(-clipped)).mean())
    return {"accuracy": float((holds == said).mean()), **means, "log_likelihood": likelihood}


def classification_metrics(labels: Ints, probabilities: Floats, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy, balanced accuracy, precision, recall, F1, AUC, calibration error, log loss, confusion matrix.

    Macro means are over the classes that occur in ``labels``. ``f1_micro`` equals the accuracy where every slice has
    one class. With two classes ``binary`` holds precision, recall, F1 and AUC of the second class, and names it.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C), rows sum to one.
        classes: C names.

    Returns:
        JSON-ready; ``auc`` (macro, one against the rest) is None where the labels hold fewer than two classes.
    """
    predicted = probabilities.argmax(axis=1)
    present, every = np.unique(labels), np.arange(len(classes))
    precisions, recalls, f1s, _ = precision_recall_fscore_support(labels, predicted, labels=every, zero_division=0)
    areas = _areas(labels, probabilities)
    accuracy = float(accuracy_score(labels, predicted))
    figures = {
        "slices": len(labels),
        "accuracy": accuracy,
        "balanced_accuracy": float(recalls[present].mean()),
        "precision_macro": float(precisions[present].mean()),
        "recall_macro": float(recalls[present].mean()),
        "f1_macro": float(f1s[present].mean()),
        "f1_micro": accuracy,  # the same, where every slice has one class
        "auc": float(np.mean(list(areas.values()))) if areas else None,
        "ece": expected_calibration_error(labels, probabilities),
        "log_loss": mean_log_loss(labels, probabilities),
        "precision": {classes[c]: float(precisions[c]) for c in present},
        "recall": {classes[c]: float(recalls[c]) for c in present},
        "f1": {classes[c]: float(f1s[c]) for c in present},
        "auc_one_vs_rest": {classes[c]: area for c, area in areas.items()},
        "confusion_matrix": confusion_matrix(labels, predicted, labels=every).tolist(),
    }
    if len(classes) == 2:
        figures["binary"] = {
            "positive_class": classes[1],
            "precision": float(precisions[1]),
            "recall": float(recalls[1]),
            "f1": float(f1s[1]),
            "auc": areas.get(1),
        }
    return figures


def _areas(labels: Ints, probabilities: Floats) -> dict[int, float]:
    """Area under the ROC curve of each class that occurs, against the rest; empty where there is only one class."""
    present = np.unique(labels)
    if len(present) < 2:
        return {}
    return {int(c): float(roc_auc_score(labels == c, probabilities[:, c])) for c in present}


def mean_log_loss(labels: Ints, probabilities: Floats) -> float:
    """Mean negative log of the true class's probability, clipped at 1e-7; 0 for a network of one class.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C).
    """
    every = np.arange(probabilities.shape[1])
    if len(every) < 2:
        return 0.0
    clipped = np.clip(probabilities.astype(np.float64), 1e-7, None)
    return float(log_loss(labels, clipped / clipped.sum(axis=1, keepdims=True), labels=every))


def per_patient(
    labels: Ints, probabilities: Floats, patients: Sequence[str], classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """`classification_metrics` of each patient, in sorted order."""
    owners = np.asarray(patients)
    return {
        str(p): classification_metrics(labels[owners == p], probabilities[owners == p], classes)
        for p in np.unique(owners)
    }


def text_report(labels: Ints, probabilities: Floats, classes: Sequence[str]) -> str:
    """scikit-learn's classification report as text."""
    predicted = probabilities.argmax(axis=1)
    report: str = classification_report(
        labels, predicted, labels=np.arange(len(classes)), target_names=list(classes), digits=3, zero_division=0
    )
    return report
