"""Stops a training when validation no longer improves."""

import logging
from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.errors import ConfigError

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Stops the trainer ``patience`` epochs after its best epoch.

    Attach it after `ModelFile`, which keeps the best epoch in the trainer's state, so that a resumed run continues the
    count. Without validation data it never stops the trainer.

    Args:
        patience: epochs without improvement before the trainer stops; None never stops it.

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
