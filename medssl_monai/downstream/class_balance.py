"""Rare classes: weights of the loss, or the rare slices more often."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medssl_monai.errors import LabelError

__all__ = ["balanced_positions", "inverse_frequency"]


def inverse_frequency(labels: Sequence[int], classes: int) -> Tensor:
    """Weight (C,) of each class, N / (C · slices of the class), as scikit-learn's "balanced"; mean 1 over the slices.

    Raises:
        LabelError: a class has no slice.
    """
    counts = _counts(labels, classes)
    return torch.tensor(len(labels) / (classes * counts), dtype=torch.float32)


def balanced_positions(labels: Sequence[int], classes: int) -> list[int]:
    """Positions in which every class comes as often as the commonest: the slices of rare classes take turns again.

    Raises:
        LabelError: a class has no slice.
    """
    largest = int(_counts(labels, classes).max())
    truth = np.asarray(labels)
    return [int(i) for c in range(classes) for i in np.resize(np.flatnonzero(truth == c), largest)]


def _counts(labels: Sequence[int], classes: int) -> np.ndarray:
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=classes)
    if not counts.all():
        raise LabelError(
            f"class number {int(counts.argmin())} has no training slice, so that no weight balances it; add slices, or "
            "leave class_balance=none"
        )
    return counts
