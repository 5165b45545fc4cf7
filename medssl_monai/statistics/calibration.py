"""Whether a classifier's confidence is the share of its answers that are right.

Shapes: N slices, C classes, B bins of confidence.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]
Ints = npt.NDArray[np.integer[Any]]
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


def bin_places(confidence: Floats, bins: int = BINS) -> Ints:
    """The bin (N,) of each confidence (N,) in [0, 1]; one on an edge belongs to the lower bin."""
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)


def _binned(right: Floats, confidence: Floats, bins: int) -> Reliability:
    place = bin_places(confidence, bins)
    count = np.bincount(place, minlength=bins)
    some = np.maximum(count, 1)
    return Reliability(
        np.linspace(0, 1, bins + 1),
        count,
        np.bincount(place, confidence, minlength=bins) / some,
        np.bincount(place, right, minlength=bins) / some,
    )


def expected_calibration_error(labels: Ints, probabilities: Floats, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over bins of confidence; 0 where the classifier knows how sure it is."""
    return reliability(labels, probabilities, bins).error
