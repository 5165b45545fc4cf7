"""The classes of a network, from a label table or as a user names them."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.labels.table import LabelTable

__all__ = ["named_classes", "network_classes"]

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
        names.append(str(name))
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
        LabelError: the table has a class that is not among those given; there is one class alone where classes exclude
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
            f"{table.path}: all rows are of the class {names[0]!r}, so that there is nothing to tell apart; add "
            "rows of another class"
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
