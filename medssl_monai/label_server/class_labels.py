"""Class labels that users give to a study as a whole, or to single slices.

A label is JSON: ``{"label": "thorax"}``, ``{"slices": {"12": "head", "13": "thorax"}}``, or both; then the slices are
exceptions. Slices are counted from 0 = most inferior.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medssl_monai.atomic import csv_text
from medssl_monai.errors import LabelError
from medssl_monai.labels.cells import COLUMNS
from medssl_monai.labels.splits import assign_splits

# Names are written into label tables, where | has a meaning, and MONAI configurations, where $ @ % # & have.
_CLASS = re.compile(r"[^\W_][\w .,()+/-]{0,63}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassLabel:
    """The class of a study, None if only slices have one; and the classes of slices."""

    study: str | None = None
    slices: Mapping[int, str] = field(default_factory=dict)

    def of_slice(self, number: int) -> str | None:
        """The class of a slice."""
        return self.slices.get(number, self.study)

    @property
    def classes(self) -> set[str]:
        """All classes in the label."""
        return set(self.slices.values()) | ({self.study} if self.study else set())


@dataclass(frozen=True)
class LabelledSeries:
    """A series of the store with its label; `slices` are the numbers of the slices that a network reads."""

    series_id: str
    patient: str
    slices: Sequence[int]
    label: ClassLabel


def parse_class_label(content: Any) -> ClassLabel | None:
    """The label in a JSON value; None if it holds no class, such as the description of a segmentation.

    Raises:
        LabelError: a class name has other characters, or a slice is not a whole number from 0.
    """
    if not isinstance(content, Mapping) or not {"label", "slices"} & set(content):
        return None
    slices = content.get("slices", {})
    if not isinstance(slices, Mapping):
        raise LabelError(
            f'label: "slices" must be an object such as {{"12": "head"}}, found {type(slices).__name__}; correct it'
        )
    study = content.get("label")
    label = ClassLabel(
        study=None if study is None else _name(study),
        slices={_slice(number): _name(name) for number, name in slices.items()},
    )
    return label if label.classes else None


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _CLASS.fullmatch(value):
        raise LabelError(
            f"label: a class must have at most 64 letters, digits, spaces and _ . , ( ) + / -, and begin with a "
            f'letter or digit, found {str(value)[:40]!r}; send for instance {{"label": "thorax"}}'
        )
    return value.strip()


def _slice(value: Any) -> int:
    text = str(value)
    if not (text.isascii() and text.isdigit()):
        raise LabelError(f"label: a slice must be a whole number counted from 0 = most inferior, found {text[:40]!r}")
    return int(text)


def label_table(labelled: Sequence[LabelledSeries], validation: float, seed: int = 0) -> str:
    """The CSV table for fine-tuning (see `medssl_monai.labels.table`), with whole patients held out for validation.

    Args:
        labelled: series with labels; slices without a class are left out.
        validation: share of the patients, in [0, 1); 0, or a single patient, gives no validation part.
        seed: of the draw.

    Raises:
        LabelError: the share is out of range, fewer than two classes have a slice, or a label names a missing slice.
    """
    if not 0 <= validation < 1:
        raise LabelError(f"val_split: must be a share from 0 to below 1, found {validation}; 0.2 holds out a fifth")
    rows: list[tuple[str, int, str, str]] = []
    for one in labelled:
        absent = sorted(set(one.label.slices) - set(one.slices))
        if absent:
            raise LabelError(
                f"label of {one.series_id}: slice {absent[0]} is not among the usable ones "
                f"({min(one.slices)} to {max(one.slices)}); correct the label"
            )
        named = [(number, one.label.of_slice(number)) for number in one.slices]
        rows += [(one.series_id, number, name, one.patient) for number, name in named if name is not None]
    classes = sorted({row[2] for row in rows})
    if len(classes) < 2:
        raise LabelError(
            f"training needs labels of two classes or more, found {', '.join(classes) or 'none'}; "
            "label more studies (tag final) and train again"
        )
    splits = ["train"] * len(rows)
    if validation and len({row[3] for row in rows}) > 1:
        shares = {"train": 1 - validation, "validation": validation}
        splits = assign_splits([row[2] for row in rows], [row[3] for row in rows], shares, seed=seed)
    else:
        logger.info("no patient is held out for validation; the model of the last epoch is kept")
    return csv_text(COLUMNS, ((*row, split) for row, split in zip(rows, splits, strict=True)))
