"""The validation predictions of the best epoch, written down."""

from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.handlers.prediction_table import PredictionTable
from medssl_monai.processes import process_rank


class BestPredictions:
    """Writes what a validation table holds whenever `ModelFile` has found the epoch the best so far.

    Only tables then; intervals and pictures, which take seconds, once at the end. Attach it after `ModelFile`. A run
    that is resumed and finds nothing better keeps the tables without pictures; ``medssl evaluate --split validation``
    draws them at any time.

    Args:
        table: collects the validator's predictions.
        output_dir: folder for them.
    """

    def __init__(self, table: PredictionTable, output_dir: str | Path) -> None:
        self.table, self.output_dir = table, Path(output_dir)
        self._best: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _note(self, engine: Any) -> None:
        if engine.state.best_metric_epoch == engine.state.epoch and self.table.predictions.labelled:
            self._best = self.table.predictions
            if process_rank() == 0:
                self._best.write(self.output_dir, figures=False)

    def _finish(self, engine: Any) -> None:
        if self._best is not None and process_rank() == 0:
            self._best.write(self.output_dir)
