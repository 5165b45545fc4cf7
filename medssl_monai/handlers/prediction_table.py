"""Collects an evaluator's predictions and writes them down."""

from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from medssl_monai.downstream.metrics import balanced_accuracy
from medssl_monai.downstream.predictions import Predictions
from medssl_monai.networks.processes import process_rank

__all__ = ["PredictionTable"]


class PredictionTable:
    """Writes predictions by slice and by study when an evaluator has finished (see `Predictions.write`).

    Where the truth is known, ``balanced_accuracy`` and ``accuracy`` over all slices join the evaluator's metrics.
    Expects a MONAI evaluator over `SliceDataset` whose postprocessing turns ``pred`` into probabilities.

    Args:
        output_dir: folder for the files; None collects only.
        classes: class names in the order of the network's outputs.
    """

    def __init__(self, output_dir: str | Path | None, classes: list[str]) -> None:
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.classes = classes
        self.predictions = Predictions(classes)

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._measure)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _clear(self, engine: Any) -> None:
        self.predictions = Predictions(self.classes)

    def _collect(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            label = item.get("label")
            self.predictions.add(
                np.asarray(output["pred"].cpu(), dtype=np.float64),
                str(item["series_id"]),
                int(item["slice"]),
                str(item["patient"]),
                None if label is None else int(label),
            )

    def _measure(self, engine: Any) -> None:
        if self.predictions.labelled:
            labels = np.asarray(self.predictions.labels)
            predicted = np.stack(self.predictions.probabilities).argmax(axis=1)
            engine.state.metrics["balanced_accuracy"] = balanced_accuracy(labels, predicted)
            engine.state.metrics["accuracy"] = float((labels == predicted).mean())

    def _write(self, engine: Any) -> None:
        if self.output_dir is not None and process_rank() == 0:
            self.predictions.write(self.output_dir)
