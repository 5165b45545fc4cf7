"""How probabilities become answers: the class of a slice or a series, and the rows of a table.

Shapes: M slices, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medssl_monai.atomic import write_csv
from medssl_monai.statistics.multilabel import broadcast_thresholds

Floats = npt.NDArray[np.floating[Any]]

NONE_HOLDS = "|"
"""In a table: no label holds, as in a label table; an empty cell says that it is not known."""


@dataclass(frozen=True)
class AnswerRule:
    """Which class or labels probabilities name, and how the slices of a series are pooled.

    Of classes that exclude each other (``multiclass``) the most probable is named, and slices are pooled by the mean.
    Of several labels (``multilabel``) those are named that reach their threshold, and slices are pooled by the largest
    probability: a finding on few slices is not diluted by the others.

    Attributes:
        classes: C names.
        task: ``multiclass`` or ``multilabel``.
        thresholds: of ``multilabel``, one number or one a class.
    """

    classes: Sequence[str]
    task: str = "multiclass"
    thresholds: float | Sequence[float] = 0.5

    @cached_property
    def cuts(self) -> Floats:
        """Thresholds (C,).

        Raises:
            ConfigError: see `broadcast_thresholds`.
        """
        return broadcast_thresholds(self.thresholds, len(self.classes))

    @property
    def pooling(self) -> str:
        """``mean`` or ``max``."""
        return "max" if self.task == "multilabel" else "mean"

    def pooled(self, probabilities: Floats) -> Floats:
        """Probabilities (C,) of slices (M, C) together."""
        return np.asarray(probabilities.max(axis=0) if self.task == "multilabel" else probabilities.mean(axis=0))

    def named(self, probability: Floats) -> str:
        """The class of probabilities (C,); of several labels those that hold, joined by ``|``, "" where none does."""
        if self.task != "multilabel":
            return self.classes[int(probability.argmax())]
        return "|".join(name for name, p, cut in zip(self.classes, probability, self.cuts, strict=True) if p >= cut)

    def shares(self, probability: Floats) -> dict[str, float]:
        """Probability by class name, to six digits."""
        return {name: round(float(p), 6) for name, p in zip(self.classes, probability, strict=True)}


def rows_by_series(series: Sequence[str], slices: Sequence[int]) -> dict[str, list[int]]:
    """Positions of the slices of each series, sorted by series and slice."""
    found: dict[str, list[int]] = {}
    for i in sorted(range(len(series)), key=lambda i: (series[i], slices[i])):
        found.setdefault(series[i], []).append(i)
    return found


def flat_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a table: ``probabilities`` becomes a column ``p_CLASS`` each, and no label named becomes ``|``."""
    plain = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "probabilities"]
    return [
        {
            **{key: row.get(key) for key in plain},
            "predicted": NONE_HOLDS if row["predicted"] == "" else row["predicted"],
            **{f"p_{name}": p for name, p in row["probabilities"].items()},
        }
        for row in rows
    ]


def answer_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows with ``probabilities`` as a table, columns as of `flat_rows`."""
    return pa.Table.from_pylist(flat_rows(rows))


def write_answers(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with ``probabilities`` as CSV, columns as of `flat_rows`."""
    flat = flat_rows(rows)
    header = list(flat[0]) if flat else []
    write_csv(path, header, ([_cell(key, row[key]) for key in header] for row in flat))


def _cell(key: str, value: Any) -> Any:
    if value is None:
        return ""
    digits = 6 if key.startswith("p_") else 4 if key == "temperature" else None
    return value if digits is None else f"{value:.{digits}f}"
