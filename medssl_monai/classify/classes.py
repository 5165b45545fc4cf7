"""The classes of a network, from a label table or as a user names them."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.labels.names import class_named
from medssl_monai.labels.table import LabelTable

logger = logging.getLogger(__name__)


def named_classes(classes: Any) -> list[str] | None:
    """The key ``classes`` as text, for YAML reads ``[0, 1]`` as numbers; None where none are named.

    Raises:
        ConfigError: it is no list of different names, or holds what YAML made true or false of.
    """
    if classes is None or classes == []:
        return None
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        raise ConfigError(
            f"classes: must be a list of names, found {classes!r}; write for instance classes=[head, chest]"
        )
    names = []
    for name in classes:
        if isinstance(name, bool) or not isinstance(name, (str, int, float)):
            raise ConfigError(
                f"classes: each must be text, found {name!r}, which is what YAML makes of words such as yes, no, on, "
                "off and null; quote them: classes=['yes', 'no']"
            )
        names.append(class_named(str(name)))
    if len(set(names)) < len(names):
        raise ConfigError(f"classes: each must be named once, found {', '.join(names)}; take out what is there twice")
    return names


def network_classes(table: LabelTable, classes: Any = None, *, task: str = "multiclass") -> list[str]:
    """Names in the order of the network's outputs: those given, or else the table's own, sorted.

    Args:
        table: from `read_labels`.
        classes: see `named_classes`.
        task: ``multiclass`` or ``multilabel``.

    Raises:
        ConfigError: see `named_classes`.
        LabelError: the table has a class that is not among those given; there is only one class where classes exclude
            each other; or, where none are given, a class has rows to be tested on and none to be learned from.
    """
    given = named_classes(classes)
    names = given or list(table.classes)
    unknown = sorted(set(table.classes) - set(names))
    if unknown:
        raise LabelError(
            f"{table.path}: the label {unknown[0]!r} is not a class of this network, which knows {', '.join(names)}; "
            "correct the table or fine-tune a network for it"
        )
    if task != "multilabel" and len(names) < 2:
        raise LabelError(
            f"{table.path}: all rows are of the class {names[0]!r}, so there is nothing to learn; add rows of "
            "another class"
        )
    learned = {name for row in table.rows if row.split == "train" for name in row.names}
    if learned:  # else the table has no splits, or is one to be tested on
        _check_learned(table.path, names, learned, given is not None)
    return names


def _check_learned(path: Path, names: Iterable[str], learned: set[str], given: bool) -> None:
    never = [name for name in names if name not in learned]
    if never and given:
        logger.warning("%s: nothing can learn what no training row shows: %s", path, ", ".join(never))
    elif never:
        raise LabelError(
            f"{path}: the class {never[0]!r} is in no row of the split 'train', so that nothing can learn it; correct "
            "its name or give it training rows, or, where this is meant, name all classes: "
            f"classes=[{', '.join(names)}]"
        )


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
