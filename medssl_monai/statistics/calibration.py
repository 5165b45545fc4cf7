"""Whether a classifier's confidence is the share of answers that are right; temperature scaling where it is not.

Shapes: N slices, C classes, B bins of confidence.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
TEMPERATURES = (0.05, 20.0)  # bounds of a fit
BINS = 15  # of equal width, as Guo et al. 2017 (arXiv 1706.04599), section 2


@dataclass(frozen=True)
class Reliability:
    """Slices sorted into bins of confidence, the probability of the class predicted; arrays (B,), 0 for an empty bin.

    Attributes:
        edges: (B + 1,) of the bins, from 0 to 1.
        count: slices.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    edges: Floats
    count: Ints
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |accuracy − confidence| over the slices, in [0, 1]."""
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / max(1, self.count.sum()))


def reliability(labels: Ints, probabilities: Floats, bins: int = BINS) -> Reliability:
    """Accuracy by confidence (Guo et al. 2017, equations 2 and 3).

    Args:
        labels: (N,) class indices.
        probabilities: (N, C).
        bins: of equal width; a confidence on an edge belongs to the lower bin.
    """
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    return _binned(right, probabilities.max(axis=1).astype(np.float64), bins)


def label_reliability(holds: npt.NDArray[np.bool_], probability: Floats, bins: int = BINS) -> Reliability:
    """How often a label holds, by its probability: for labels that do not exclude each other.

    Args:
        holds: (N,) truth.
        probability: (N,) of the label; what `Reliability` calls confidence.
        bins: as in `reliability`.
    """
    return _binned(holds.astype(np.float64), probability.astype(np.float64), bins)


def _binned(right: Floats, confidence: Floats, bins: int) -> Reliability:
    edges = np.linspace(0, 1, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    some = np.maximum(count, 1)
    return Reliability(
        edges,
        count,
        np.bincount(place, confidence, minlength=bins) / some,
        np.bincount(place, right, minlength=bins) / some,
    )


def expected_calibration_error(labels: Ints, probabilities: Floats, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over bins of confidence; 0 where the classifier knows how sure it is."""
    return reliability(labels, probabilities, bins).error


def scale_temperature(probabilities: Floats, temperature: float) -> Floats:
    """Softmax of log-probabilities over ``temperature`` (N, C): above 1 less sure, below 1 surer, the same class."""
    logits = np.log(np.clip(probabilities.astype(np.float64), 1e-12, None)) / temperature
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def fit_temperature(labels: Ints, probabilities: Floats) -> float:
    """Temperature within `TEMPERATURES` that makes the log loss of validation data least (Guo et al. 2017)."""

    def loss(log_temperature: float) -> float:
        scaled = scale_temperature(probabilities, float(np.exp(log_temperature)))
        return float(-np.log(np.clip(scaled[np.arange(len(labels)), labels], 1e-12, None)).mean())

    found = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))
