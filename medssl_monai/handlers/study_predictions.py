"""Collects an evaluator's predictions on slices without labels, and how far each can be trusted."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import nn

from medssl_monai.classify.confidence import read_confidence
from medssl_monai.classify.features import StageFeatures
from medssl_monai.classify.inputs import PredictionInput
from medssl_monai.classify.prediction_result import PredictionResult
from medssl_monai.statistics.multilabel import broadcast_thresholds
from medssl_monai.statistics.temperature import at_temperature


class StudyPredictions:
    """Writes predictions by slice and study when an evaluator has finished (see `PredictionResult.write`).

    Probabilities are at the run's temperature, and slices unlike those of training are flagged, where the run has
    either. Expects a MONAI evaluator over `SliceDataset` whose postprocessing turns ``pred`` into probabilities.

    Args:
        output_dir: folder for the files; None collects only.
        classes: class names in the order of the network's outputs.
        network: the evaluator's, a torchvision ResNet.
        models: folder of the run's weights, where its confidence lies too.
        source: what is classified, for what was left out of it.
        task: ``multiclass`` or ``multilabel``.
        thresholds: of ``multilabel``, one number or one a class: of the network's own probabilities, before the
            temperature, as in training and evaluation.

    Raises:
        CheckpointError: the run's confidence is broken.
        ConfigError: see `broadcast_thresholds`.
    """

    def __init__(
        self,
        output_dir: str | Path | None,
        classes: Sequence[str],
        network: nn.Module,
        models: str | Path,
        source: PredictionInput | None = None,
        task: str = "multiclass",
        thresholds: float | Sequence[float] = 0.5,
    ) -> None:
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.classes, self.task, self.source = list(classes), task, source
        self.thresholds = broadcast_thresholds(thresholds, len(self.classes)).tolist()
        self.confidence = read_confidence(models)
        self.result: PredictionResult | None = None
        self._listener = StageFeatures(network)
        self._clear()

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._stop)

    def _clear(self) -> None:
        self._probabilities: list[Any] = []
        self._scores: list[Any] = []
        self._items: list[tuple[str, int, str]] = []

    def _start(self, engine: Any) -> None:
        self._clear()
        if self.confidence.reference is not None:
            self._listener.__enter__()

    def _collect(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            self._probabilities.append(np.asarray(output["pred"].float().cpu(), dtype=np.float64))
            self._items.append((str(item["series_id"]), int(item["slice"]), str(item["patient"])))
        if self.confidence.reference is not None:
            self._scores.append(self.confidence.reference.distances(self._listener.take()))

    def _finish(self, engine: Any) -> None:
        self._listener.__exit__(None, None, None)
        own = np.stack(self._probabilities)
        self.result = PredictionResult(
            self.classes,
            at_temperature(own, self.confidence.temperature, self.task),
            [item[0] for item in self._items],
            [item[1] for item in self._items],
            [item[2] for item in self._items],
            self.confidence,
            np.concatenate(self._scores) if self._scores else None,
            [] if self.source is None else self.source.left_out,
            self.task,
            self.thresholds,
            own=own,
        )
        if self.output_dir is not None:
            self.result.write(self.output_dir)

    def _stop(self, engine: Any, error: BaseException) -> None:
        self._listener.__exit__(None, None, None)
        raise error
