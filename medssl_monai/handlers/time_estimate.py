"""How long a training will take, logged after its first steps."""

import logging
import time
from typing import Any

import torch
from ignite.engine import Engine, Events

from medssl_monai.processes import process_rank

logger = logging.getLogger(__name__)

LONG = 2 * 3600.0
"""Seconds from which on a smaller recipe is named to those who have no GPU."""


class TimeEstimate:
    """Logs one line with the time of a step and of the steps that remain, once a few steps are measured.

    The first two steps are left out, since they also start loader processes and fill caches.

    Args:
        recipe: overlay of a smaller training, named where there is no GPU and more than two hours remain.
        steps: that are measured; fewer where they take longer than `seconds`.
        seconds: after which two measured steps are enough.
    """

    def __init__(self, recipe: str, steps: int = 20, seconds: float = 30.0) -> None:
        self.recipe, self.steps, self.seconds = recipe, steps, seconds
        self._done, self._started = 0, 0.0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; of several processes the first logs."""
        if process_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)

    def _measure(self, engine: Any) -> None:
        self._done += 1
        now, measured = time.monotonic(), self._done - 2
        if measured == 0:
            self._started = now
        elapsed = now - self._started
        if measured == self.steps or (2 <= measured < self.steps and elapsed >= self.seconds):
            self._done = -(10**12)  # once
            self._tell(engine, elapsed / measured)

    def _tell(self, engine: Any, step: float) -> None:
        remaining = engine.state.max_epochs * engine.state.epoch_length - engine.state.iteration
        if remaining < 1:
            return
        left = remaining * step
        logger.info("a step takes %s: about %s for the %d steps that remain", _words(step), _words(left), remaining)
        if left > LONG and torch.device(engine.state.device).type == "cpu":
            logger.warning("this is long without a GPU: --config %s is a recipe for small machines", self.recipe)


def _words(seconds: float) -> str:
    """``0.25 s``, ``40 s``, ``12 min``, ``46 h``."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.0f} h"
