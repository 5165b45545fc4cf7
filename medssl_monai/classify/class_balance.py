"""Rare classes: weights of the loss, or the rare slices more often."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl_monai.errors import ConfigError, LabelError

__all__ = ["balanced_loss", "balanced_positions", "inverse_frequency", "positive_weights"]


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
    if np.ndim(labels) == 2:
        raise LabelError(
            "class_balance=sampling balances classes that exclude each other; where several may hold at once take "
            "class_balance=loss"
        )
    largest = int(_counts(labels, classes).max())
    truth = np.asarray(labels)
    return [int(i) for c in range(classes) for i in np.resize(np.flatnonzero(truth == c), largest)]


def positive_weights(labels: npt.ArrayLike) -> Tensor:
    """Weight (C,) of each label's yes in the binary cross-entropy: slices without it over slices with it.

    Args:
        labels: (N, C), 1 where a label holds.

    Raises:
        LabelError: a label never holds, so that no weight balances it.
    """
    truth = np.asarray(labels, dtype=np.float64)
    yes = truth.sum(axis=0)
    if not yes.all():
        raise LabelError(
            f"label number {int(yes.argmin())} holds in no training slice, so that no weight balances it; add slices, "
            "or leave class_balance=none"
        )
    return torch.tensor((len(truth) - yes) / yes, dtype=torch.float32)


def balanced_loss(task: str, class_balance: str, data: Any, classes: int) -> nn.Module:
    """The loss of a classifier: cross-entropy, or for ``multilabel`` binary cross-entropy of each label.

    Args:
        task: ``multiclass`` or ``multilabel``.
        class_balance: ``loss`` weighs by `inverse_frequency` or `positive_weights`; ``none`` and ``sampling`` do not.
        data: has ``labels_of("train")``.
        classes: number of the network's outputs.

    Raises:
        ConfigError: another balance.
        LabelError: a class has no training slice, and the loss is to be weighed.
    """
    if class_balance not in ("none", "loss", "sampling"):
        raise ConfigError(f"class_balance: must be none, loss or sampling, found {class_balance!r}; choose one of them")
    weigh = class_balance == "loss"
    if task == "multilabel":
        return nn.BCEWithLogitsLoss(pos_weight=positive_weights(data.labels_of("train")) if weigh else None)
    return nn.CrossEntropyLoss(weight=inverse_frequency(data.labels_of("train"), classes) if weigh else None)


def _counts(labels: Sequence[int], classes: int) -> np.ndarray:
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=classes)
    if not counts.all():
        raise LabelError(
            f"class number {int(counts.argmin())} has no training slice, so that no weight balances it; add slices, or "
            "leave class_balance=none"
        )
    return counts
