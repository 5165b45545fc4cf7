"""The answer of a classifier: slices and studies with probabilities, what was flagged instead, what was left out.

Here a study is a series of a store. A slice whose distance to the training slices exceeds the run's threshold is
flagged, and no class is named for it; a study is flagged where more than half of its slices are.

Shapes: N slices, C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.atomic import write_csv, write_json
from medssl_monai.classify.answers import AnswerRule, rows_by_series, write_answers
from medssl_monai.classify.confidence import Confidence
from medssl_monai.statistics.temperature import at_temperature

Floats = npt.NDArray[np.floating[Any]]

FLAG = "out_of_distribution"
POOLING = {
    "multiclass": "mean over the slices that are not flagged (over all, where the study is flagged)",
    "multilabel": "largest over the slices that are not flagged (over all, where the study is flagged)",
}


@dataclass(frozen=True)
class PredictionResult:
    """One row a slice.

    Attributes:
        classes: C names.
        probabilities: (N, C) at the run's temperature.
        series: pseudonym of the series per slice.
        slices: number of the slice in its series, from 0 = most inferior.
        patients: pseudonym per slice.
        confidence: the run's.
        scores: (N,) distances to the training slices; None where the run has no reference.
        left_out: what was not classified, see `prediction_input.left_out_entry`.
        task: ``multiclass``, or ``multilabel`` where several classes may hold at once.
        thresholds: (C,) of ``multilabel``: from which of the network's own probabilities a class is named, as in an
            evaluation.
        names: paths of sources by series, and by file where it belongs to none; empty where nobody asked for them.
        own: (N, C) the network's own probabilities, before the temperature; None where ``probabilities`` are.
    """

    classes: Sequence[str]
    probabilities: Floats
    series: Sequence[str]
    slices: Sequence[int]
    patients: Sequence[str]
    confidence: Confidence
    scores: Floats | None = None
    left_out: Sequence[Mapping[str, Any]] = ()
    task: str = "multiclass"
    thresholds: Sequence[float] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    own: Floats | None = None

    @property
    def threshold(self) -> float | None:
        """Distance above which a slice is flagged; None where the run has no reference."""
        reference = self.confidence.reference
        return None if reference is None or self.scores is None else reference.threshold

    @cached_property
    def flagged(self) -> npt.NDArray[np.bool_]:
        """(N,) slices that are unlike those of training."""
        if self.threshold is None or self.scores is None:
            return np.zeros(len(self.series), dtype=bool)
        return np.asarray(self.scores > self.threshold)

    @property
    def label_thresholds(self) -> list[float]:
        """`thresholds` at the run's temperature: from which of the probabilities given here a class is named."""
        if self.own is None:
            return list(self.thresholds)
        cuts = at_temperature(np.asarray(self.thresholds), self.confidence.temperature, self.task)
        return [float(cut) for cut in cuts]

    @cached_property
    def rule(self) -> AnswerRule:
        """How probabilities name classes."""
        return AnswerRule(self.classes, self.task, self.thresholds)

    def named(self, rows: Sequence[int]) -> str:
        """The class of slices together; of several labels those that hold in any of them, joined by ``|``."""
        # A low temperature turns many probabilities into 1: only the network's own ones are compared with thresholds.
        judged = self.own if self.own is not None and self.task == "multilabel" else self.probabilities
        return self.rule.named(self.rule.pooled(judged[rows]))

    @cached_property
    def series_rows(self) -> dict[str, list[int]]:
        """Rows of each series, sorted by series and slice."""
        return rows_by_series(self.series, self.slices)

    def slice_rows(self) -> list[dict[str, Any]]:
        """JSON-ready, one a slice."""
        return [
            {
                "series_id": self.series[i],
                "slice": self.slices[i],
                "patient": self.patients[i],
                **self._source(self.series[i]),
                "predicted": None if self.flagged[i] else self.named([i]),
                "probabilities": self.rule.shares(self.probabilities[i]),
                "flag": FLAG if self.flagged[i] else None,
                "score": None if self.scores is None else round(float(self.scores[i]), 4),
                "threshold": None if self.threshold is None else round(self.threshold, 4),
            }
            for rows in self.series_rows.values()
            for i in rows
        ]

    @cached_property
    def studies(self) -> list[dict[str, Any]]:
        """JSON-ready, one a series."""
        return [self._study(series, rows) for series, rows in self.series_rows.items()]

    def _study(self, series: str, rows: list[int]) -> dict[str, Any]:
        flags = self.flagged[rows]
        flagged = bool(flags.mean() > 0.5)
        used = [i for i in rows if flagged or not self.flagged[i]]
        pooled = self.rule.pooled(self.probabilities[used])
        return {
            "series_id": series,
            "patient": self.patients[rows[0]],
            **self._source(series),
            "slices": len(rows),
            "pooling": self.rule.pooling,
            "pooled_slices": len(used),
            "predicted": None if flagged else self.named(used),
            "probabilities": self.rule.shares(pooled),
            "flag": FLAG if flagged else None,
            "flagged_slices": int(flags.sum()),
            "score": None if self.scores is None else round(float(np.median(self.scores[rows])), 4),
            "threshold": None if self.threshold is None else round(self.threshold, 4),
        }

    def _source(self, *pseudonyms: str) -> dict[str, str]:
        return next(({"source": self.names[one]} for one in pseudonyms if one in self.names), {})

    def as_json(self) -> dict[str, Any]:
        """Everything, as ``prediction.json`` holds it."""
        return {
            "task": self.task,
            "classes": list(self.classes),
            **(self._label_thresholds() if self.task == "multilabel" else {}),
            **self.confidence.describe(),
            "pooling": POOLING[self.task],
            "studies": self.studies,
            "slices": self.slice_rows(),
            "left_out": self._left_out(),
        }

    def _left_out(self) -> list[dict[str, Any]]:
        return [{**one, **self._source(one.get("series_id", ""), one.get("source_id", ""))} for one in self.left_out]

    def _label_thresholds(self) -> dict[str, list[float]]:
        return {"label_thresholds": self.label_thresholds, "label_thresholds_as_set": list(self.thresholds)}

    def write(self, folder: Path) -> None:
        """``prediction.json``; the same as ``predictions.csv`` (slices), ``studies.csv`` and ``studies.json``,
        ``left_out.csv``."""
        write_json(folder / "prediction.json", self.as_json())
        write_json(folder / "studies.json", self.studies)
        for name, rows in (("predictions", self.slice_rows()), ("studies", self.studies)):
            write_answers(folder / f"{name}.csv", [{**row, "temperature": self.confidence.temperature} for row in rows])
        keys = ["kind", "series_id", "source_id", "modality", "files", "reason", "detail"]
        keys += ["source"] * bool(self.names)
        write_csv(folder / "left_out.csv", keys, ([one.get(key, "") for key in keys] for one in self._left_out()))
