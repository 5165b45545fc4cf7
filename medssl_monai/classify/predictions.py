"""Predictions on labelled slices: by slice and by series, their metrics, and the files of an evaluation.

Shapes: N slices, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from medssl_monai.atomic import write_json, write_text
from medssl_monai.classify.answers import NONE_HOLDS, AnswerRule, answer_table, rows_by_series, write_answers
from medssl_monai.classify.figures import (
    draw_confusion_matrix,
    draw_label_matrices,
    draw_label_reliability,
    draw_reliability,
    draw_roc,
)
from medssl_monai.statistics.calibration import label_reliability, reliability
from medssl_monai.statistics.intervals import patient_intervals
from medssl_monai.statistics.metrics import classification_metrics, text_report
from medssl_monai.statistics.multilabel import label_intervals, multilabel_metrics

Floats = npt.NDArray[np.floating[Any]]


@dataclass
class Predictions:
    """One row a slice.

    Attributes:
        classes: C names.
        task: ``multiclass``, or ``multilabel`` where several classes may hold at once.
        thresholds: of ``multilabel``: from which probability a label is said to hold, one number or one a class.
        probabilities: per slice a vector (C,); of ``multiclass`` it sums to one.
        series: series pseudonym per slice.
        slices: number of the slice in its series, from 0 = most inferior.
        patients: per slice.
        sources: paths of series, or of pictures, where they are to be written down; they may name a patient.
        labels: per slice a class index, of ``multilabel`` a vector (C,) of what holds; None where it is unknown.
    """

    classes: Sequence[str]
    task: str = "multiclass"
    thresholds: float | Sequence[float] = 0.5
    probabilities: list[npt.NDArray[np.float64]] = field(default_factory=list)
    series: list[str] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    sources: Mapping[str, str] = field(default_factory=dict)

    def add(
        self, probability: npt.NDArray[np.float64], series: str, slice_number: int, patient: str, label: Any
    ) -> None:
        """Append a slice; ``label`` is a class index, of ``multilabel`` a vector (C,) of 0 and 1, or None."""
        self.probabilities.append(probability)
        self.series.append(series)
        self.slices.append(slice_number)
        self.patients.append(patient)
        if label is not None:
            label = np.asarray(label) > 0.5 if self.task == "multilabel" else int(label)
        self.labels.append(label)

    @property
    def rule(self) -> AnswerRule:
        """How these probabilities name classes."""
        return AnswerRule(self.classes, self.task, self.thresholds)

    @property
    def labelled(self) -> bool:
        """Whether the truth is known for every slice, and there is one."""
        return bool(self.labels) and all(label is not None for label in self.labels)

    def arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.float64]]:
        """Truth, (N,) class indices or (N, C) what holds, and probabilities (N, C); of labelled predictions only."""
        return np.asarray(self.labels), np.stack(self.probabilities)

    def metrics(self) -> dict[str, Any]:
        """Metrics over all slices, for each patient, and of whole series.

        They are those of `classification_metrics`, or of `multilabel_metrics`. ``per_patient`` is empty where a patient
        is unknown. ``studies`` pools each series; a series holds what any of its slices holds. It is None where slices
        of a series belong to different classes that exclude each other, for then a series has no class.
        """
        labels, probabilities = self.arrays()
        owners = np.asarray(self.patients)
        names = np.unique(owners) if all(self.patients) else ()
        several = {"task": self.task, "thresholds": self.rule.cuts.tolist()} if self.task == "multilabel" else {}
        return {
            **several,
            "classes": list(self.classes),
            "all_slices": self._measured(labels, probabilities),
            "per_patient": {
                str(name): self._measured(labels[owners == name], probabilities[owners == name]) for name in names
            },
            "studies": self._series_metrics(labels, probabilities),
        }

    def _measured(self, labels: npt.NDArray[Any], probabilities: Floats) -> dict[str, Any]:
        if self.task == "multilabel":
            return multilabel_metrics(labels, probabilities, self.classes, self.rule.cuts)
        return classification_metrics(labels, probabilities, self.classes)

    def _series_metrics(self, labels: npt.NDArray[Any], probabilities: Floats) -> dict[str, Any] | None:
        groups = list(rows_by_series(self.series, self.slices).values())
        if len(groups) < 2 or len(groups) == len(labels):
            return None
        if self.task != "multilabel" and any((labels[rows] != labels[rows[0]]).any() for rows in groups):
            return None
        truth = np.stack([labels[rows].max(axis=0) for rows in groups])
        pooled = np.stack([self.rule.pooled(probabilities[rows]) for rows in groups])
        figures = self._measured(truth, pooled)
        return {"pooling": self.rule.pooling, "studies": figures.pop("slices"), **figures}

    def slice_rows(self) -> list[dict[str, Any]]:
        """JSON-ready, one a slice, sorted by series and slice."""
        return [
            {
                "series_id": series,
                "slice": self.slices[i],
                "patient": self.patients[i],
                **self._source(series),
                "label": self._label(i),
                "predicted": self.rule.named(self.probabilities[i]),
                "probabilities": self.rule.shares(self.probabilities[i]),
            }
            for series, rows in rows_by_series(self.series, self.slices).items()
            for i in rows
        ]

    def _source(self, series: str) -> dict[str, str]:
        return {"source": self.sources[series]} if series in self.sources else {}

    def _label(self, i: int) -> str | None:
        label = self.labels[i]
        if label is None:
            return None
        return (
            "|".join(np.asarray(self.classes)[label]) or NONE_HOLDS
            if self.task == "multilabel"
            else self.classes[label]
        )

    def studies(self) -> list[dict[str, Any]]:
        """JSON-ready, one a series: its slices' probabilities pooled, and what they name."""
        found = []
        for series, rows in rows_by_series(self.series, self.slices).items():
            pooled = self.rule.pooled(np.stack([self.probabilities[i] for i in rows]))
            found.append(
                {
                    "series_id": series,
                    "patient": self.patients[rows[0]],
                    **self._source(series),
                    "slices": len(rows),
                    "pooling": self.rule.pooling,
                    "predicted": self.rule.named(pooled),
                    "probabilities": self.rule.shares(pooled),
                }
            )
        return found

    def table(self) -> pa.Table:
        """``series_id``, ``slice``, ``patient``, ``label``, ``predicted`` and a column ``p_CLASS`` for each class.

        Where `sources` are known also ``source``.
        """
        return answer_table(self.slice_rows())

    def write(self, folder: Path, *, figures: bool = True, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write ``predictions.csv`` (the content of `table`) and ``studies.json``.

        Where the truth is known also ``metrics.json`` and, of classes that exclude each other,
        ``classification_report.txt``.

        Args:
            folder: for the files.
            figures: add bootstrap intervals over patients to the metrics, and draw ``figures/`` with
                ``confusion_matrix.png``, ``roc.png`` and ``reliability.png``; this takes seconds.
            more: entries that are added to ``metrics.json``.

        Returns:
            The content of ``metrics.json``; empty where the truth is unknown.
        """
        write_answers(folder / "predictions.csv", self.slice_rows())
        write_json(folder / "studies.json", self.studies())
        if not self.labelled:
            return {}
        labels, probabilities = self.arrays()
        metrics = self.metrics()
        if figures and self.task == "multilabel":
            metrics["intervals"] = label_intervals(labels, probabilities, self.patients, self.rule.cuts)
        elif figures:
            metrics["intervals"] = patient_intervals(labels, probabilities, self.patients)
        metrics |= more or {}
        write_json(folder / "metrics.json", metrics)
        if self.task != "multilabel":
            write_text(folder / "classification_report.txt", text_report(labels, probabilities, self.classes))
        if figures:
            self._draw(folder / "figures", metrics["all_slices"])
        return metrics

    def _draw(self, folder: Path, metrics: Mapping[str, Any]) -> None:
        labels, probabilities = self.arrays()
        draw_roc(labels, probabilities, self.classes, folder / "roc.png")
        if self.task == "multilabel":
            draw_label_matrices(metrics["by_label"], folder / "confusion_matrix.png")
            tables = {name: label_reliability(labels[:, c], probabilities[:, c]) for c, name in enumerate(self.classes)}
            draw_label_reliability(tables, folder / "reliability.png")
        else:
            draw_confusion_matrix(
                np.asarray(metrics["confusion_matrix"]), self.classes, folder / "confusion_matrix.png"
            )
            draw_reliability(reliability(labels, probabilities), folder / "reliability.png")
