"""Predictions where several labels may hold at once: what `Predictions` is for classes that exclude each other."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.atomic import write_json, write_text
from medssl_monai.classify.figures import draw_label_matrices, draw_label_reliability, draw_roc
from medssl_monai.statistics.calibration import label_reliability
from medssl_monai.statistics.multilabel import broadcast_thresholds, label_intervals, multilabel_metrics


@dataclass
class MultilabelPredictions:
    """One row a slice; attributes as of `Predictions`, but a label is the vector (C,) of what holds.

    A study (series) holds what any of its slices holds, and its probability is the largest of its slices: a finding on
    few slices is not diluted by the others.
    """

    classes: Sequence[str]
    thresholds: float | Sequence[float] = 0.5
    probabilities: list[npt.NDArray[np.float64]] = field(default_factory=list)
    series: list[str] = field(default_factory=list)
    slices: list[int] = field(default_factory=list)
    patients: list[str] = field(default_factory=list)
    labels: list[npt.NDArray[np.bool_] | None] = field(default_factory=list)

    @property
    def cuts(self) -> npt.NDArray[np.floating[Any]]:
        """Thresholds (C,).

        Raises:
            ConfigError: see `broadcast_thresholds`.
        """
        return broadcast_thresholds(self.thresholds, len(self.classes))

    def add(
        self, probability: npt.NDArray[np.float64], series: str, slice_number: int, patient: str, label: Any
    ) -> None:
        """Append a slice; ``label`` is a vector (C,) of noughts and ones, or None."""
        self.probabilities.append(probability)
        self.series.append(series)
        self.slices.append(slice_number)
        self.patients.append(patient)
        self.labels.append(None if label is None else np.asarray(label) > 0.5)

    @property
    def labelled(self) -> bool:
        """Whether the truth is known for every slice (and there is one)."""
        return bool(self.labels) and all(label is not None for label in self.labels)

    def truth(self) -> npt.NDArray[np.bool_]:
        """(N, C) what holds; of labelled predictions only."""
        return np.stack([label for label in self.labels if label is not None])

    def metrics(self) -> dict[str, Any]:
        """Figures over all slices, for each patient, and of whole studies; see `multilabel_metrics`."""
        labels, probabilities = self.truth(), np.stack(self.probabilities)
        owners = np.asarray(self.patients)
        names = np.unique(owners) if all(self.patients) else ()
        return {
            "task": "multilabel",
            "classes": list(self.classes),
            "thresholds": self.cuts.tolist(),
            "all_slices": multilabel_metrics(labels, probabilities, self.classes, self.cuts),
            "per_patient": {
                str(name): multilabel_metrics(
                    labels[owners == name], probabilities[owners == name], self.classes, self.cuts
                )
                for name in names
            },
            "studies": self._study_metrics(labels, probabilities),
        }

    def _study_metrics(
        self, labels: npt.NDArray[np.bool_], probabilities: npt.NDArray[np.float64]
    ) -> dict[str, Any] | None:
        names, owner = np.unique(np.asarray(self.series), return_inverse=True)
        if len(names) < 2 or len(names) == len(labels):
            return None
        truth, pooled = np.zeros((len(names), labels.shape[1]), dtype=bool), np.zeros((len(names), labels.shape[1]))
        np.logical_or.at(truth, owner, labels)
        np.maximum.at(pooled, owner, probabilities)
        figures = multilabel_metrics(truth, pooled, self.classes, self.cuts)
        return {"pooling": "max", "studies": figures.pop("slices"), **figures}

    def named(self, probability: npt.NDArray[np.float64]) -> str:
        """The labels said to hold, with ``|`` between them; "" where none is."""
        return "|".join(c for c, p, cut in zip(self.classes, probability, self.cuts, strict=True) if p >= cut)

    def studies(self) -> list[dict[str, Any]]:
        """One entry a series: the largest of its slices' probabilities of each label, and the labels said to hold."""
        rows_of: dict[str, list[int]] = {}
        for i, series in enumerate(self.series):
            rows_of.setdefault(series, []).append(i)
        table = []
        for series, rows in sorted(rows_of.items()):
            most = np.max([self.probabilities[i] for i in rows], axis=0)
            table.append(
                {
                    "series_id": series,
                    "patient": self.patients[rows[0]],
                    "slices": len(rows),
                    "pooling": "max",
                    "predicted": self.named(most),
                    "probabilities": {c: round(float(p), 6) for c, p in zip(self.classes, most, strict=True)},
                }
            )
        return table

    def write(self, folder: Path, *, figures: bool = True) -> None:
        """Write ``predictions.csv`` (slices) and ``studies.json``.

        Where the truth is known also ``metrics.json``, and with ``figures`` intervals in it and ``figures/`` with
        ``confusion_matrix.png`` (one a label), ``roc.png`` and ``reliability.png``.
        """
        write_text(folder / "predictions.csv", self._csv())
        write_json(folder / "studies.json", self.studies())
        if not self.labelled:
            return
        labels, probabilities = self.truth(), np.stack(self.probabilities)
        metrics = self.metrics()
        if figures:
            metrics["intervals"] = label_intervals(labels, probabilities, self.patients, self.cuts)
        write_json(folder / "metrics.json", metrics)
        if not figures:
            return
        by_label = metrics["all_slices"]["by_label"]
        draw_label_matrices(by_label, folder / "figures" / "confusion_matrix.png")
        draw_roc(labels, probabilities, self.classes, folder / "figures" / "roc.png")
        tables = {name: label_reliability(labels[:, c], probabilities[:, c]) for c, name in enumerate(self.classes)}
        draw_label_reliability(tables, folder / "figures" / "reliability.png")

    def _csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["series_id", "slice", "patient", "label", "predicted", *[f"p_{c}" for c in self.classes]])
        for i in sorted(range(len(self.series)), key=lambda i: (self.series[i], self.slices[i])):
            label = self.labels[i]
            # As in a label table: "|" alone says that none holds, an empty cell that it is not known.
            held = "" if label is None else "|".join(np.asarray(self.classes)[label]) or "|"
            values = [f"{p:.6f}" for p in self.probabilities[i]]
            predicted = self.named(self.probabilities[i]) or "|"
            writer.writerow([self.series[i], self.slices[i], self.patients[i], held, predicted, *values])
        return text.getvalue()
