"""A study's cells brought together: means over seeds, intervals over patients, tests against the baseline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.atomic import write_csv
from medssl_monai.experiment.cells import cell_made_by, maker
from medssl_monai.experiment.growth import Growth, growths
from medssl_monai.experiment.inputs import StudyInputs
from medssl_monai.experiment.judged import Contrast, Judged, contrasts_of, draws, intervals, read_judged, stacked
from medssl_monai.experiment.plan import METRICS, Cell, StudyPlan
from medssl_monai.statistics.calibration import expected_calibration_error
from medssl_monai.statistics.metrics import figures_for_choice

SEEN_AS = {"archive": "unlabelled images", "task": "the training images", "both": "unlabelled and training images"}
FIGURES = ("accuracy", "balanced_accuracy", "f1_macro", "auc", "ece")


@dataclass(frozen=True)
class Point:
    """One encoder and head at one share of the labels.

    Attributes:
        mean: the study's metric, mean over seeds; None where it is not defined.
        low: end of the interval over patients, or None where they are too few.
        high: the other end.
        lowest: smallest value over the seeds.
        highest: largest value over the seeds.
        train_slices: mean over seeds.
        train_patients: mean over seeds, None where unknown.
        figures: of each of `METRICS` its mean over seeds and the ends of its interval; None where not defined.
        official: the study's metric on the whole test part, where contradicting pictures are left out of the others.
        moves: how far the metric moves from the epoch before the chosen one to the one after it: highest less lowest,
            mean over seeds; None where that was not judged.
    """

    encoder: str
    head: str
    fraction: float
    seeds: int
    mean: float | None
    low: float | None
    high: float | None
    lowest: float | None
    highest: float | None
    train_slices: float
    train_patients: float | None
    figures: Mapping[str, tuple[float | None, float | None, float | None]] = field(default_factory=dict)
    official: float | None = None
    moves: float | None = None


@dataclass(frozen=True)
class StudyResults:
    """All that the report shows.

    Attributes:
        record: the JSON-ready part that says how it came to be.
        interval_note: how the intervals were made.
        growths: what more labels would bring.
        no_growths: why there are none; "" where there are.
    """

    plan: StudyPlan
    classes: list[str]
    points: list[Point]
    contrasts: list[Contrast]
    record: dict[str, Any]
    interval_note: str
    growths: Sequence[Growth] = ()
    no_growths: str = ""

    @property
    def has_intervals(self) -> bool:
        """Whether there were test patients enough for intervals."""
        return any(point.low is not None for point in self.points)


def collect(plan: StudyPlan, inputs: StudyInputs, out: Path) -> StudyResults:
    """Read all cells; write ``results.csv`` (a row a cell) and the other tables."""
    rows = [_row(plan, inputs, cell, out / "cells" / cell.folder) for cell in plan.cells]
    _write_rows(out / "results.csv", rows)
    points, note = [], ""
    judged: dict[tuple[str, str, float], Judged] = {}
    for head, encoder in plan.rows:
        for fraction in plan.fractions:
            folders = [out / "cells" / Cell(encoder, head, fraction, seed).folder / "evaluation" for seed in plan.seeds]
            parts = [read_judged(plan, inputs, folder) for folder in folders]
            judged[head, encoder, fraction] = stacked(parts)
            mine = [r for r in rows if (r["head"], r["encoder"], r["fraction"]) == (head, encoder, fraction)]
            whole = draws(inputs, plan.seeds, parts)
            found = intervals(plan, whole)
            points.append(_point(plan, mine, found))
            note = found["note"]
    _write_rows(out / "figures.csv", [row for point in points for row in _figure_rows(point)])
    contrasts = contrasts_of(plan, judged, folds=inputs.folds > 0)
    _write_rows(out / "comparisons.csv", [vars(c) for c in contrasts])
    now = maker(inputs)
    tested = (rows[0]["test_slices"], rows[0]["test_patients"])
    if inputs.folds:  # a cell tests one of them
        known = bool((whole[0].patients != "").all())
        tested = (len(whole[0].labels), len(np.unique(whole[0].patients)) if known else None)
    record = {
        "title": plan.title,
        "data": {k: v for k, v in plan.data.items() if k in {"phantom", "images"}},  # no paths: they may name a patient
        "settings": dict(plan.settings),
        "encoders": {name: _origin(plan, name) for name in plan.encoders},
        "heads": list(plan.heads),
        "fractions": list(plan.fractions),
        "seeds": list(plan.seeds),
        "metric": plan.metric,
        "baseline": plan.baseline,
        "classes": inputs.classes,
        "subset_unit": inputs.unit,
        "train_patients": inputs.train_patients,
        "test_slices": tested[0],
        "test_patients": tested[1],
        "steps": sorted({r["steps"] for r in rows}),
        "data_fingerprint": inputs.fingerprint,
        "seconds": round(sum(r["seconds"] for r in rows)),
        "made_by": now,
        "folds": inputs.folds,
        "contradicting": len(inputs.contradicting),
        "overlap": inputs.overlap,
        "cells_of_other_code": sum(cell_made_by(cell, out) != now for cell in plan.cells),
    }
    curves, why = growths(plan, rows, inputs.unit)
    if curves:
        _write_rows(out / "learning_curves.csv", [one.to_row() for one in curves])
    return StudyResults(plan, inputs.classes, points, contrasts, record, note, curves, why)


def _origin(plan: StudyPlan, name: str) -> str:
    """Where an encoder comes from, without a path."""
    source = plan.encoders[name]
    if source.bundle is None:
        prepared = ", ".join(f"{key} {value}" for key, value in source.settings.items())
        return f"weights of a file{f' ({prepared})' if prepared else ''}" if source.weights else "not pre-trained"
    settings = ", ".join(f"{key} {value}" for key, value in source.settings.items()) or "the bundle's own settings"
    overlays = "".join(f"{overlay}, " for overlay in source.overlays)
    seeds = f"; {source.seeds} seeds" if source.seeds > 1 else ""
    return f"{source.bundle} on {SEEN_AS[plan.seen(name)]} ({overlays}{settings}{seeds})"


def _row(plan: StudyPlan, inputs: StudyInputs, cell: Cell, folder: Path) -> dict[str, Any]:
    done = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    known, official = metrics["per_patient"], metrics["all_slices"]
    row = {
        **vars(cell),
        "train_patients": done["train_patients"],
        "train_slices": done["train_slices"],
        "steps": done["steps"],
        "test_patients": len(known) or None,
        "test_slices": official["slices"],
        **_figures(plan, inputs, folder / "evaluation"),
        "seconds": done["seconds"],
    }
    if plan.neighbours:
        beside = [_figures(plan, inputs, place)[plan.metric] for place in (folder / "neighbours").glob("[+-]1")]
        near = [*beside, row[plan.metric]]
        validation = done.get("validation") or {}
        row |= {
            "best_epoch": done.get("best_epoch"),
            "validation": validation.get(plan.metric),
            "moves": max(near) - min(near) if beside else None,
        }
    return row | ({f"official_{name}": official[name] for name in METRICS} if inputs.contradicting else {})


def _figures(plan: StudyPlan, inputs: StudyInputs, folder: Path) -> dict[str, Any]:
    """Figures of an evaluation, without the contradicting pictures."""
    official = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["all_slices"]
    figures = {name: official[name] for name in FIGURES}
    if not inputs.contradicting:
        return figures
    judged = read_judged(plan, inputs, folder)
    counted = figures_for_choice(judged.labels, judged.probabilities)
    calibration = {"ece": expected_calibration_error(judged.labels, judged.probabilities)}
    return {**figures, **{name: counted[name] for name in METRICS}, **calibration}


def _figure_rows(point: Point) -> list[dict[str, Any]]:
    place = {"encoder": point.encoder, "head": point.head, "fraction": point.fraction, "seeds": point.seeds}
    return [
        {**place, "figure": name, "mean": mean, "low": low, "high": high}
        for name, (mean, low, high) in point.figures.items()
    ]


def _point(plan: StudyPlan, rows: Sequence[dict[str, Any]], interval: dict[str, Any]) -> Point:
    values = [r[plan.metric] for r in rows if r[plan.metric] is not None]
    intervals = interval.get("figures") or {}
    limits = intervals.get(plan.metric) or (None, None)
    patients = [r["train_patients"] for r in rows]
    return Point(
        rows[0]["encoder"],
        rows[0]["head"],
        rows[0]["fraction"],
        len(rows),
        float(np.mean(values)) if values else None,
        limits[0],
        limits[1],
        min(values, default=None),
        max(values, default=None),
        float(np.mean([r["train_slices"] for r in rows])),
        None if None in patients else float(np.mean(patients)),
        {name: (_mean(rows, name), *(intervals.get(name) or (None, None))) for name in METRICS},
        _mean(rows, f"official_{plan.metric}"),
        _mean(rows, "moves"),
    )


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return float(np.mean(values)) if values else None


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    values = ([f"{v:.6g}" if isinstance(v, float) else v for v in row.values()] for row in rows)
    write_csv(path, list(rows[0]) if rows else [], values)
