"""What more labels would bring: a learning curve for each encoder and head of a study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medssl_monai.errors import InputError
from medssl_monai.experiment.plan import HEADS, METRICS, StudyPlan
from medssl_monai.statistics.learning_curve import FURTHEST, Band, learning_curve


@dataclass(frozen=True)
class Growth:
    """One encoder and head.

    Attributes:
        unit: what is counted: labelled ``patients``, or ``slices`` where patients are unknown or in every subset.
        count: the greatest number that was measured.
        reached: the study's metric with that many, mean over seeds.
        doubled: with twice as many.
        needed: how many reach the study's `wanted`; None without one. Infinite beyond ten times `count`.
    """

    encoder: str
    head: str
    unit: str
    count: float
    reached: float
    doubled: Band
    needed: Band | None

    def needed_text(self, wanted: float | None) -> str:
        """`needed` in words."""
        if self.needed is None or wanted is None:
            return ""
        if self.reached >= wanted:
            return f"reached with {self.count:g}"
        value, low, high = (self._told(each) for each in (self.needed.value, self.needed.low, self.needed.high))
        return f"{value} ({low} to {high})"

    def _told(self, count: float) -> str:
        return f"more than {FURTHEST * self.count:.0f}" if math.isinf(count) else f"{count:.0f}"

    def to_row(self) -> dict[str, Any]:
        """For ``learning_curves.csv``."""
        needed = {} if self.needed is None else vars(self.needed)
        return {
            **{name: getattr(self, name) for name in ("encoder", "head", "unit", "count", "reached")},
            **{f"doubled_{name}": value for name, value in vars(self.doubled).items()},
            **{f"needed_{name}": needed.get(name) for name in ("value", "low", "high")},
        }


def growths(plan: StudyPlan, rows: Sequence[Mapping[str, Any]], unit: str) -> tuple[list[Growth], str]:
    """The learning curves of a study, and why there are none.

    Args:
        plan: of the study.
        rows: one a cell, as in ``results.csv``.
        unit: of the subsets.
    """
    found = []
    counted = "train_patients" if unit == "patients" else "train_slices"
    for head, encoder in plan.rows:
        mine = [row for row in rows if (row["head"], row["encoder"]) == (head, encoder)]
        if any(row[plan.metric] is None for row in mine):
            return [], "the metric is not defined for every training"
        parts = [[row for row in mine if row["fraction"] == fraction] for fraction in plan.fractions]
        counts = [float(np.mean([row[counted] for row in part])) for part in parts]
        figures = [[float(row[plan.metric]) for row in part] for part in parts]
        try:
            curve = learning_curve(counts, figures)
            needed = None if plan.wanted is None else curve.needed(plan.wanted)
        except InputError as error:
            return [], str(error)
        found.append(
            Growth(encoder, head, unit, counts[-1], float(np.mean(figures[-1])), curve.at(2 * counts[-1]), needed)
        )
    return found, ""


def growth_note(found: Sequence[Growth], why: str = "") -> str:
    """What a reader must know before the table."""
    if not found:
        return f"Not estimated: {why}."
    return (
        "A power law was fitted to the figures by number of labels. In brackets are the ends of a band that holds 95% "
        "of the weight of all laws that fit. It says nothing of labels of another kind, or from another hospital."
    )


def growth_table(
    plan: StudyPlan, found: Sequence[Growth], heads: Mapping[str, str] = HEADS
) -> tuple[list[str], list[list[str]]]:
    """Columns and rows of text, one row an encoder and head; `heads` are the heads' names."""
    rows = []
    for one in found:
        measured = f"{one.count:g} {one.unit}: {one.reached:.3f}"
        doubled = f"{one.doubled.value:.3f} ({one.doubled.low:.3f}–{one.doubled.high:.3f})"
        rows.append([plan.row_name(one.head, one.encoder), heads[one.head], measured, doubled])
        rows[-1] += [one.needed_text(plan.wanted)] * (plan.wanted is not None)
    wanted = [] if plan.wanted is None else [f"{found[0].unit} for {METRICS[plan.metric]} {plan.wanted:g}"]
    return ["encoder", "head", "measured", "with twice as many", *wanted], rows
