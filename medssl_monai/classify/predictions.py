"""Predictions by slice and by study, and the files they are written to."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.atomic import write_json, write_text
from medssl_monai.classify.figures import draw_confusion_matrix, draw_reliability, draw_roc
from medssl_monai.statistics.calibration import reliability
from medssl_monai.statistics.intervals import patient_intervals
from medssl_monai.statistics.metrics import classification_metrics, per_patient, text_report


@dataclass
class Predictions:
    """One row a slice.

    Attributes:
        classes: C names.
        probabilities: per slice a vector of C that sums to one.
        series: series pseudonym per slice.
        slices: number of the slice in its series, from 0 = most inferior.
        patients: per slice.
        labels: class index per slice, or None throughout where the truth is unknown.
    """

    classes: Sequence[str]
    probabilities: list[npt.NDArray[np.float64]] = field(default_factory=list)
    series: list[str] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)

    def add(
        self, probability: npt.NDArray[np.float64], series: str, slice_number: int, patient: str, label: int | None
    ) -> None:
        """Append a slice."""
        self.probabilities.append(probability)
        self.series.append(series)
        self.slices.append(slice_number)
        self.patients.append(patient)
        self.labels.append(label)

    @property
    def labelled(self) -> bool:
        """Whether the truth is known for every slice (and there is one)."""
        return bool(self.labels) and all(label is not None for label in self.labels)

    def metrics(self) -> dict[str, Any]:
        """Figures over all slices, for each patient, and of whole studies; see `classification_metrics`.

        ``per_patient`` is empty where a patient is unknown. ``studies`` pools each series by the mean; it is None where
        the slices of a series have different labels, for then a study has no label of its own.
        """
        labels, probabilities = self._arrays()
        known = all(self.patients)
        return {
            "classes": list(self.classes),
            "all_slices": classification_metrics(labels, probabilities, self.classes),
            "per_patient": per_patient(labels, probabilities, self.patients, self.classes) if known else {},
            "studies": self._study_metrics(labels, probabilities),
        }

    def _arrays(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        return np.asarray(self.labels, dtype=np.int64), np.stack(self.probabilities)

    def _study_metrics(
        self, labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
    ) -> dict[str, Any] | None:
        names, owner = np.unique(np.asarray(self.series), return_inverse=True)
        truth = np.zeros(len(names), dtype=np.int64)
        truth[owner] = labels  # any slice's will do: they agree, or there is no label of the study
        if len(names) < 2 or len(names) == len(labels) or (truth[owner] != labels).any():
            return None
        pooled = np.zeros((len(names), len(self.classes)))
        np.add.at(pooled, owner, probabilities)
        pooled /= np.bincount(owner)[:, None]
        figures = classification_metrics(truth, pooled, self.classes)
        return {"pooling": "mean", "studies": figures.pop("slices"), **figures}

    def studies(self) -> list[dict[str, Any]]:
        """One entry a series: the mean of its slices' probabilities (mean pooling) and the class it is largest for."""
        table = []
        rows_of: dict[str, list[int]] = {}
        for i, series in enumerate(self.series):
            rows_of.setdefault(series, []).append(i)
        for series, rows in sorted(rows_of.items()):
            mean = np.mean([self.probabilities[i] for i in rows], axis=0)
            table.append(
                {
                    "series_id": series,
                    "patient": self.patients[rows[0]],
                    "slices": len(rows),
                    "pooling": "mean",
                    "predicted": self.classes[int(mean.argmax())],
                    "probabilities": {c: round(float(p), 6) for c, p in zip(self.classes, mean, strict=True)},
                }
            )
        return table

    def write(self, folder: Path, *, figures: bool = True) -> None:
        """Write ``predictions.csv`` (slices) and ``studies.json``.

        Where the truth is known also ``metrics.json`` (with bootstrap intervals over patients where they are enough,
        see `patient_intervals`), ``classification_report.txt``, and ``figures/`` with ``confusion_matrix.png``,
        ``roc.png`` and ``reliability.png``. Without ``figures`` neither intervals nor pictures, which take seconds.
        """
        write_text(folder / "predictions.csv", self._csv())
        write_json(folder / "studies.json", self.studies())
        if self.labelled:
            labels, probabilities = self._arrays()
            metrics = self.metrics()
            if figures:
                metrics["intervals"] = patient_intervals(labels, probabilities, self.patients)
            write_json(folder / "metrics.json", metrics)
            write_text(folder / "classification_report.txt", text_report(labels, probabilities, self.classes))
            if not figures:
                return
            matrix = np.asarray(metrics["all_slices"]["confusion_matrix"])
            draw_confusion_matrix(matrix, self.classes, folder / "figures" / "confusion_matrix.png")
            draw_roc(labels, probabilities, self.classes, folder / "figures" / "roc.png")
            draw_reliability(reliability(labels, probabilities), folder / "figures" / "reliability.png")

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["series_id", "slice", "patient", "label", "predicted", *[f"p_{c}" for c in self.classes]])
        order = sorted(range(len(self.series)), key=lambda i: (self.series[i], self.slices[i]))
        for i in order:
            label = self.labels[i]
            name = "" if label is None else self.classes[label]
            predicted = self.classes[int(self.probabilities[i].argmax())]
            values = [f"{p:.6f}" for p in self.probabilities[i]]
            writer.writerow([self.series[i], self.slices[i], self.patients[i], name, predicted, *values])
        return text.getvalue()
