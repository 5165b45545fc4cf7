"""Temperature scaling of a classifier's confidence: fitted on validation slices, judged on others.

Guo et al. 2017 (arXiv 1706.04599), section 4.2. Shapes: N slices, C classes.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax

Floats = npt.NDArray[np.floating[Any]]
TEMPERATURES = (0.05, 20.0)
"""Bounds of a fit."""


def probabilities_of(logits: Floats, task: str = "multiclass") -> Floats:
    """Probabilities (N, C) of a network's logits: softmax, or for ``multilabel`` the sigmoid of each."""
    exact = logits.astype(np.float64)
    return np.asarray(expit(exact) if task == "multilabel" else softmax(exact, axis=1))


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
    exact = probabilities.astype(np.float64)
    if task == "multilabel":
        return np.asarray(expit(logit(np.clip(exact, 1e-12, 1 - 1e-12)) / temperature))
    return np.asarray(softmax(np.log(np.clip(exact, 1e-12, None)) / temperature, axis=1))


def fit_temperature(labels: npt.NDArray[Any], logits: Floats, task: str = "multiclass") -> float:
    """Temperature within `TEMPERATURES` that makes the log loss least on validation slices.

    Args:
        labels: (N,) class indices, or for ``multilabel`` (N, C) of 0 and 1.
        logits: (N, C); log-probabilities serve as well.
        task: ``multiclass`` or ``multilabel``.
    """
    if task == "multilabel":
        signed = np.where(labels > 0.5, 1.0, -1.0) * logits.astype(np.float64)
    else:
        probabilities = probabilities_of(logits)

    def loss(log_temperature: float) -> float:
        temperature = float(np.exp(log_temperature))
        if task == "multilabel":
            return float(np.logaddexp(0, -signed / temperature).mean())
        scaled = at_temperature(probabilities, temperature)
        return float(-np.log(np.clip(scaled[np.arange(len(labels)), labels], 1e-12, None)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
