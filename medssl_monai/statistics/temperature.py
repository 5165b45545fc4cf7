"""Temperature scaling of a classifier's confidence: fitted on validation slices, judged on others.

Shapes: N slices, C classes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from medssl_monai.statistics.calibration import (
    TEMPERATURES,
    fit_temperature,
    scale_temperature,
)

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
