"""Detects during training that embeddings hardly differ between images, or that the loss stays at chance."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import default_collate

from medssl_monai.errors import ConfigError, DivergedError
from medssl_monai.methods.base import Method
from medssl_monai.processes import process_rank
from medssl_monai.runs.step_log import AT_END, StepLog, embedding_line
from medssl_monai.statistics.embeddings import alignment, effective_rank, embedding_std, uniformity
from medssl_monai.store.epochs import SampleKey

MIN_PROTOTYPE_ENTROPY = 0.02  # below it nearly all slices fall on one prototype
LEARNED = 0.005  # share of the method's loss at chance by which a loss is lower where something is learned

logger = logging.getLogger(__name__)


class CollapseGuard:
    """Measures the embeddings of the same slices every ``interval`` epochs; warns about a collapse, or stops the run.

    Embeddings are ``method.embed`` of the first two views (or the only one), in evaluation mode. The figures are
    written to ``OUTPUT_DIR/logs/collapse.jsonl``: ``embedding_std``, ``effective_rank``, ``uniformity``, ``alignment``
    (with two views), the method's own (``method.health``: prototype usage, queue age), and ``collapsed``. Embeddings
    have collapsed if their spread or rank is below its bound, or if nearly all slices fall on one prototype.

    Embeddings can also differ without any use to the loss. For a method with a ``chance_loss``, ``at_chance`` tells
    whether the step's loss is at or above 99.5 % of it. Losses often stay there for a while at the start, so this is
    a warning, once, and only in the second half of the training.

    Args:
        method: the method being trained.
        dataset: gives ``views`` for a `SampleKey`.
        output_dir: the run's folder.
        count: number of slices, evenly spread over the data.
        interval: epochs between two measurements.
        min_std: lower bound of ``embedding_std``, which is 1 for even spread and 0 for a single point.
        min_rank: lower bound of ``effective_rank``, which is 1 for a single direction.
        patience: consecutive measurements below a bound before the guard warns or stops.
        stop: whether to raise instead of warning.

    Raises:
        ConfigError: ``patience`` or ``interval`` below one, or fewer than two slices.
        DivergedError: (during training, with ``stop``) the method has collapsed.
    """

    def __init__(
        self,
        method: Method,
        dataset: Any,
        output_dir: str | Path,
        count: int = 64,
        interval: int = 1,
        min_std: float = 0.05,
        min_rank: float = 1.5,
        patience: int = 2,
        stop: bool = False,
    ) -> None:
        if min(patience, interval) < 1 or min(count, len(dataset)) < 2:
            raise ConfigError(
                f"collapse guard: patience and interval must be at least 1, found {patience} and {interval}, and it "
                f"compares at least two slices, found {min(count, len(dataset))}; correct these"
            )
        self.method, self.dataset, self.stop = method, dataset, stop
        self.log = StepLog(output_dir, "collapse")
        self.interval, self.patience = interval, patience
        self.min_std, self.min_rank = min_std, min_rank
        self._told_of_chance = False
        chosen = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long().tolist()
        self.keys = [SampleKey(0, index) for index in chosen]

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.log.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Any) -> None:
        """Measure now, in the first process; the others stop when it stops."""
        if process_rank() > 0:
            return
        figures = self.measure(engine.state.device)
        row = {"step": engine.state.iteration, **figures, "collapsed": self._collapsed(figures)}
        chance, output = self.method.chance_loss, engine.state.output
        if chance is not None and isinstance(output, Mapping):
            row["at_chance"] = float(output["loss"]) >= (1 - LEARNED) * chance
        self.log.write(row)
        recent = self.log.rows[-self.patience :]
        if len(recent) < self.patience:
            return
        if all(r["collapsed"] for r in recent):
            self._tell(row)
        # Of a training in rounds, as federated ones are, `max_epochs` is the end of the round.
        total_epochs = getattr(engine, "total_epochs", None) or engine.state.max_epochs
        late = 2 * engine.state.epoch >= total_epochs
        if late and not self._told_of_chance and all(r.get("at_chance") for r in recent):
            self._told_of_chance = True
            logger.warning(
                "the loss at step %d is %.3f, and guessing gives %.3f: nothing is learned yet; %s",
                *(row["step"], float(output["loss"]), chance, self.method.advice),
            )

    def _finish(self, engine: Any) -> None:
        if self.log.rows and process_rank() == 0:
            logger.info("%s", embedding_line(self.log.rows[-1]), extra=AT_END)

    @torch.no_grad()
    def measure(self, device: str | torch.device) -> dict[str, float]:
        """The figures now; mode, weights and statistics of the method do not change."""
        training = self.method.training
        self.method.eval()
        batch = default_collate([{"views": self.dataset[key]["views"][:2]} for key in self.keys])
        embeddings: list[Tensor] = [self.method.embed(view.to(device)).cpu() for view in batch["views"]]
        self.method.train(training)
        figures = {
            "embedding_std": embedding_std(embeddings[0]),
            "effective_rank": effective_rank(embeddings[0]),
            "uniformity": uniformity(embeddings[0]),
        }
        if len(embeddings) > 1:
            figures["alignment"] = alignment(*embeddings)
        return figures | self.method.health(embeddings[0])

    def _collapsed(self, figures: dict[str, float]) -> bool:
        spread, rank = figures["embedding_std"] < self.min_std, figures["effective_rank"] < self.min_rank
        return spread or rank or figures.get("prototype_entropy", 1.0) < MIN_PROTOTYPE_ENTROPY

    def _tell(self, row: dict[str, Any]) -> None:
        message = (
            f"the embeddings have collapsed at step {row['step']}: their spread is {row['embedding_std']:.3f} "
            f"(bound {self.min_std}) and their effective rank {row['effective_rank']:.2f} (bound {self.min_rank}); "
            f"{self.method.advice}"
        )
        if self.stop:
            raise DivergedError(message)
        logger.warning("%s", message)
