"""Collects an evaluator's predictions on labelled slices."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from medssl_monai.classify.predictions import Predictions
from medssl_monai.statistics.metrics import figures_for_choice
from medssl_monai.statistics.multilabel import broadcast_thresholds


class PredictionTable:
    """Collects predictions; where the truth is known, `figures_for_choice` join the evaluator's metrics.

    Expects a MONAI evaluator over `SliceDataset` whose postprocessing turns ``pred`` into probabilities. The table of
    the last pass is ``predictions``, see `Predictions`.

    Args:
        classes: class names in the order of the network's outputs.
        task: ``multiclass``, or ``multilabel`` where several classes may hold at once.
        thresholds: of ``multilabel``: from which probability a label is said to hold, one number or one a class.

    Raises:
        ConfigError: see `broadcast_thresholds`.
    """

    def __init__(self, classes: list[str], task: str = "multiclass", thresholds: float | Sequence[float] = 0.5) -> None:
        broadcast_thresholds(thresholds, len(classes))
        self.classes, self.task, self.thresholds = classes, task, thresholds
        self._clear(None)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._measure)

    def _clear(self, engine: Any) -> None:
        self.predictions = Predictions(self.classes, self.task, self.thresholds)

    def _collect(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.predictions.add(
                np.asarray(output["pred"].cpu(), dtype=np.float64),
                str(item["series_id"]),
                int(item["slice"]),
                str(item["patient"]),
                item.get("label"),
            )

    def _measure(self, engine: Any) -> None:
        if self.predictions.labelled:
            engine.state.metrics.update(figures_for_choice(*self.predictions.arrays()))
