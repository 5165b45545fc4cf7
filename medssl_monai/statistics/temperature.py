"""Temperature scaling of a classifier's confidence: fitted on validation slices, judged on others.

Shapes: N slices, C classes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import log_loss
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medssl_monai.classify.predictions import Predictions
from medssl_monai.statistics.calibration import (
    TEMPERATURES,
    expected_calibration_error,
    fit_temperature,
    scale_temperature,
)

__all__ = ["at_temperature", "fit_task_temperature", "temperature_figures"]

Floats = npt.NDArray[np.floating[Any]]


def at_temperature(probabilities: Floats, temperature: float, task: str = "multiclass") -> Floats:
    """Probabilities (N, C) as they are with the logits divided by ``temperature``; the order of classes stays.

    Args:
        probabilities: of classes that exclude each other (``multiclass``, rows sum to one), or each by itself
            (``multilabel``).
        temperature: above 1 less sure, below 1 surer.
        task: which of the two.
    """
    if temperature == 1:
        return probabilities
    if task == "multilabel":
        return np.asarray(expit(logit(np.clip(probabilities.astype(np.float64), 1e-12, 1 - 1e-12)) / temperature))
    return scale_temperature(probabilities, temperature)


def fit_task_temperature(labels: npt.NDArray[Any], logits: Floats, task: str = "multiclass") -> float:
    """Temperature within `TEMPERATURES` that makes the log loss least on validation slices.

    Args:
        labels: (N,) class indices, or for ``multilabel`` (N, C) noughts and ones.
        logits: (N, C).
        task: ``multiclass`` or ``multilabel``.
    """
    if task != "multilabel":
        shares = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
        return fit_temperature(labels, shares / shares.sum(axis=1, keepdims=True))
    signed = np.where(labels > 0.5, 1.0, -1.0) * logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


@torch.no_grad()
def temperature_figures(
    network: nn.Module, validation: Dataset[dict[str, Any]], predictions: Predictions, batch_size: int = 32
) -> dict[str, Any]:
    """Temperature by the validation slices, and calibration of other predictions before and after it.

    The class predicted, and with it every figure but calibration error and log loss, stays the same.

    Args:
        network: images to logits; put into evaluation mode.
        validation: items with ``image`` and ``label``, one or more.
        predictions: labelled, of slices that are not among them.
        batch_size: slices a forward pass; has no influence.

    Returns:
        ``temperature``, ``validation_slices``, ``ece`` and ``log_loss``, each [before, after]; JSON-ready.
    """
    network.eval()
    device = next(network.parameters()).device
    parts, truth = [], []
    for batch in DataLoader(validation, batch_size=batch_size):
        parts.append(network(batch["image"].to(device)).float().softmax(dim=1).cpu().numpy())
        truth.append(np.asarray(batch["label"]))
    temperature = fit_temperature(np.concatenate(truth), np.concatenate(parts))
    labels, before = np.asarray(predictions.labels, dtype=np.int64), np.stack(predictions.probabilities)
    after = scale_temperature(before, temperature)
    return {
        "temperature": temperature,
        "validation_slices": int(sum(len(part) for part in truth)),
        "ece": [expected_calibration_error(labels, p) for p in (before, after)],
        "log_loss": [_log_loss(labels, p) for p in (before, after)],
    }


def _log_loss(labels: npt.NDArray[np.int64], probabilities: Floats) -> float:
    """0 where a network has one class alone, of which scikit-learn's makes none."""
    every = np.arange(probabilities.shape[1])
    return float(log_loss(labels, scale_temperature(probabilities, 1.0), labels=every)) if len(every) > 1 else 0.0
