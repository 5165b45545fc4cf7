"""Collects an evaluator's predictions and writes them down."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from medssl_monai.classify.multilabel_predictions import MultilabelPredictions
from medssl_monai.classify.predictions import Predictions
from medssl_monai.processes import process_rank
from medssl_monai.statistics.metrics import figures_for_choice
from medssl_monai.statistics.multilabel import broadcast_thresholds


class PredictionTable:
    """Writes predictions by slice and by study when an evaluator has finished (see `Predictions.write`).

    Where the truth is known, `figures_for_choice` over all slices join the evaluator's metrics.
    Expects a MONAI evaluator over `SliceDataset` whose postprocessing turns ``pred`` into probabilities.

    Args:
        output_dir: folder for the files; None collects only.
        classes: class names in the order of the network's outputs.
        task: ``multiclass``, or ``multilabel`` where several classes may hold at once.
        thresholds: of ``multilabel``: from which probability a label is said to hold, one number or one a class.
        figures: whether intervals and pictures are made too, which takes seconds.

    Raises:
        ConfigError: see `broadcast_thresholds`.
    """

    def __init__(
        self,
        output_dir: str | Path | None,
        classes: list[str],
        task: str = "multiclass",
        thresholds: float | Sequence[float] = 0.5,
        figures: bool = True,
    ) -> None:
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.classes, self.task, self.thresholds, self.figures = classes, task, thresholds, figures
        broadcast_thresholds(thresholds, len(classes))
        self.predictions: Predictions | MultilabelPredictions = self._empty()

    def _empty(self) -> Predictions | MultilabelPredictions:
        if self.task == "multilabel":
            return MultilabelPredictions(self.classes, self.thresholds)
        return Predictions(self.classes)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._measure)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _clear(self, engine: Any) -> None:
        self.predictions = self._empty()

    def _collect(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            label = item.get("label")
            self.predictions.add(
                np.asarray(output["pred"].cpu(), dtype=np.float64),
                str(item["series_id"]),
                int(item["slice"]),
                str(item["patient"]),
                label if label is None or self.task == "multilabel" else int(label),
            )

    def _measure(self, engine: Any) -> None:
        if self.predictions.labelled:
            labels, probabilities = np.asarray(self.predictions.labels), np.stack(self.predictions.probabilities)
            engine.state.metrics.update(figures_for_choice(labels, probabilities))

    def _write(self, engine: Any) -> None:
        if self.output_dir is not None and process_rank() == 0:
            self.predictions.write(self.output_dir, figures=self.figures)
