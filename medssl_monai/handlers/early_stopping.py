"""Ends a training whose validation no longer improves."""

import logging
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.errors import ConfigError

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Stops the trainer when its best epoch lies ``patience`` epochs back.

    Attach it after `ModelFile`, which keeps the best network and the number of its epoch in the trainer's state (so
    that a resumed run counts on). Without validation data nothing is ever better, and nothing is stopped.

    Args:
        patience: epochs without a better validation before the end; None never stops.

    Raises:
        ConfigError: a patience below 1.
    """

    def __init__(self, patience: int | None) -> None:
        if patience is not None and patience < 1:
            raise ConfigError(f"patience: must be 1 or more epochs, or null, found {patience}; give for instance 10")
        self.patience = patience

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.patience is not None:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._judge)

    def _judge(self, engine: Any) -> None:
        best = engine.state.best_metric_epoch
        if best != -1 and engine.state.epoch - best >= (self.patience or 0):
            logger.info("no better validation since epoch %d: stopped after epoch %d", best, engine.state.epoch)
            engine.terminate()
