"""A study's cells brought together: means over seeds, intervals over patients, tests against the baseline."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.atomic import write_csv
from medssl_monai.experiment.cells import cell_made_by, maker
from medssl_monai.experiment.inputs import StudyInputs
from medssl_monai.experiment.plan import Cell, EncoderSource, StudyPlan
from medssl_monai.statistics.comparison import (
    Comparison,
    delong_test,
    holm,
    paired_label_permutation,
    paired_permutation,
)
from medssl_monai.statistics.intervals import patient_intervals
from medssl_monai.statistics.multilabel import broadcast_thresholds, label_intervals

FIGURES = ("accuracy", "balanced_accuracy", "f1_macro", "auc", "ece")


@dataclass(frozen=True)
class Judged:
    """Test slices of one or more cells: labels (N,) or of several (N, C), probabilities (N, C), patients (N,)."""

    labels: npt.NDArray[Any]
    probabilities: npt.NDArray[np.float64]
    patients: npt.NDArray[np.str_]


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


@dataclass(frozen=True)
class Contrast:
    """An encoder against the baseline: difference of balanced accuracy, its p and Holm's; None where not tested."""

    encoder: str
    head: str
    fraction: float
    difference: float
    p: float | None
    p_holm: float | None
    p_delong: float | None
    note: str


@dataclass(frozen=True)
class StudyResults:
    """All that the report shows; ``record`` is the JSON-ready part that says how it came to be."""

    plan: StudyPlan
    classes: list[str]
    points: list[Point]
    contrasts: list[Contrast]
    record: dict[str, Any]
    interval_note: str

    @property
    def has_intervals(self) -> bool:
        """Whether there were test patients enough for intervals."""
        return any(point.low is not None for point in self.points)


def collect(plan: StudyPlan, inputs: StudyInputs, out: Path) -> StudyResults:
    """Read all cells; write ``results.csv`` (a row a cell) and ``comparisons.csv``."""
    rows = [_row(cell, out / "cells" / cell.folder) for cell in plan.cells]
    _write_rows(out / "results.csv", rows)
    points, note = [], ""
    judged: dict[tuple[str, str, float], Judged] = {}
    for head in plan.heads:
        for encoder in plan.encoders:
            for fraction in plan.fractions:
                cells = [Cell(encoder, head, fraction, seed) for seed in plan.seeds]
                stacked = _stacked([_judged(plan, out / "cells" / c.folder, inputs.classes) for c in cells])
                judged[head, encoder, fraction] = stacked
                mine = [r for r in rows if (r["head"], r["encoder"], r["fraction"]) == (head, encoder, fraction)]
                found = _intervals(plan, stacked)
                points.append(_point(plan, mine, found))
                note = found["note"]
    contrasts = _contrasts(plan, judged)
    _write_rows(out / "comparisons.csv", [vars(c) for c in contrasts])
    now = maker(inputs)
    record = {
        "title": plan.title,
        "data": {k: v for k, v in plan.data.items() if k in {"phantom", "images"}},  # no paths: they may name a patient
        "settings": dict(plan.settings),
        "encoders": {name: _origin(source) for name, source in plan.encoders.items()},
        "heads": list(plan.heads),
        "fractions": list(plan.fractions),
        "seeds": list(plan.seeds),
        "metric": plan.metric,
        "baseline": plan.baseline,
        "classes": inputs.classes,
        "subset_unit": inputs.unit,
        "train_patients": inputs.train_patients,
        "test_slices": rows[0]["test_slices"],
        "test_patients": rows[0]["test_patients"],
        "steps": sorted({r["steps"] for r in rows}),
        "data_fingerprint": inputs.fingerprint,
        "seconds": round(sum(r["seconds"] for r in rows)),
        "made_by": now,
        "cells_of_other_code": sum(cell_made_by(cell, out) != now for cell in plan.cells),
    }
    return StudyResults(plan, inputs.classes, points, contrasts, record, note)


def _origin(source: EncoderSource) -> str:
    """Where an encoder comes from, without a path."""
    if source.bundle is None:
        prepared = ", ".join(f"{key} {value}" for key, value in source.settings.items())
        return f"weights of a file{f' ({prepared})' if prepared else ''}" if source.weights else "not pre-trained"
    settings = ", ".join(f"{key} {value}" for key, value in source.settings.items()) or "the bundle's own settings"
    return f"{source.bundle} ({settings})"


def _row(cell: Cell, folder: Path) -> dict[str, Any]:
    done = json.loads((folder / "cell.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))
    known = metrics["per_patient"]
    return {
        **vars(cell),
        "train_patients": done["train_patients"],
        "train_slices": done["train_slices"],
        "steps": done["steps"],
        "test_patients": len(known) or None,
        "test_slices": metrics["all_slices"]["slices"],
        **{name: metrics["all_slices"][name] for name in FIGURES},
        "seconds": done["seconds"],
    }


def _several(plan: StudyPlan) -> bool:
    return plan.settings.get("task") == "multilabel"


def _thresholds(plan: StudyPlan, classes: int) -> npt.NDArray[np.floating[Any]]:
    return broadcast_thresholds(plan.settings.get("thresholds", 0.5), classes)


def _intervals(plan: StudyPlan, judged: Judged) -> dict[str, Any]:
    if _several(plan):
        cuts = _thresholds(plan, judged.probabilities.shape[1])
        return label_intervals(judged.labels, judged.probabilities, judged.patients, cuts)
    return patient_intervals(judged.labels, judged.probabilities, judged.patients)


def _judged(plan: StudyPlan, folder: Path, classes: Sequence[str]) -> Judged:
    with (folder / "evaluation" / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = (
        np.array([[c in r["label"].split("|") for c in classes] for r in rows])
        if _several(plan)
        else np.array([list(classes).index(r["label"]) for r in rows])
    )
    return Judged(
        labels,
        np.array([[float(r[f"p_{c}"]) for c in classes] for r in rows]),
        np.array([r["patient"] for r in rows]),
    )


def _stacked(parts: Sequence[Judged]) -> Judged:
    """The seeds' answers one below another: a patient keeps his name, and is drawn or exchanged with all of them."""
    return Judged(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.probabilities for p in parts]),
        np.concatenate([p.patients for p in parts]),
    )


def _point(plan: StudyPlan, rows: Sequence[dict[str, Any]], interval: dict[str, Any]) -> Point:
    values = [r[plan.metric] for r in rows if r[plan.metric] is not None]
    limits = (interval.get("figures") or {}).get(plan.metric) or (None, None)
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
    )


def _contrasts(plan: StudyPlan, judged: dict[tuple[str, str, float], Judged]) -> list[Contrast]:
    """Each encoder against the baseline at each share of the labels, corrected over all of them together."""
    found: list[tuple[tuple[str, str, float], Comparison, float | None]] = []
    for (head, encoder, fraction), mine in judged.items():
        if encoder == plan.baseline:
            continue
        base = judged[head, plan.baseline, fraction]
        if (mine.patients == "").any():
            difference = _tested(plan, mine, base, np.full(len(mine.labels), "all")).difference
            comparison = Comparison(difference, None, 0, "patients unknown: no test")
        else:
            comparison = _tested(plan, mine, base, mine.patients)
        found.append(((encoder, head, fraction), comparison, _delong(mine, base)))
    tested = [c.p for _, c, _ in found if c.p is not None]
    corrected = iter(holm(tested))
    return [
        Contrast(*key, c.difference, c.p, None if c.p is None else next(corrected), delong, c.note)
        for key, c, delong in found
    ]


def _tested(plan: StudyPlan, mine: Judged, base: Judged, patients: npt.NDArray[np.str_]) -> Comparison:
    if not _several(plan):
        return paired_permutation(mine.labels, mine.probabilities, base.probabilities, patients)
    cuts = _thresholds(plan, mine.probabilities.shape[1])
    return paired_label_permutation(mine.labels, mine.probabilities >= cuts, base.probabilities >= cuts, patients)


def _delong(mine: Judged, base: Judged) -> float | None:
    """DeLong's p for two classes where each patient has one label: one mean score a patient, two of each class."""
    if mine.labels.ndim == 2:
        return None
    names, owner = np.unique(mine.patients, return_inverse=True)
    truth = np.zeros(len(names), dtype=np.int64)
    truth[owner] = mine.labels
    several = "" in names or mine.probabilities.shape[1] != 2 or (truth[owner] != mine.labels).any()
    if several or min(truth.sum(), (1 - truth).sum()) < 2:
        return None
    scores = [np.bincount(owner, j.probabilities[:, 1]) / np.bincount(owner) for j in (mine, base)]
    return delong_test(truth == 1, scores[0], scores[1]).p


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    values = ([f"{v:.6g}" if isinstance(v, float) else v for v in row.values()] for row in rows)
    write_csv(path, list(rows[0]) if rows else [], values)
