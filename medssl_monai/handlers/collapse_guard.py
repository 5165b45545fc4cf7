"""Sees a method collapse while there is time: embeddings that no longer tell one image from another."""

import json
import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import Tensor
from torch.utils.data import default_collate

from medssl_monai.atomic import write_text
from medssl_monai.errors import ConfigError, DivergedError
from medssl_monai.methods.base import Method
from medssl_monai.processes import process_rank
from medssl_monai.statistics.embeddings import alignment, effective_rank, embedding_std, uniformity
from medssl_monai.store.dataset import SampleKey

MIN_PROTOTYPE_ENTROPY = 0.02  # one prototype takes nearly all slices

logger = logging.getLogger(__name__)


class CollapseGuard:
    """Watches the embeddings of the same slices every ``interval`` epochs; warns, and stops on request.

    Embeddings are ``method.embed`` of the first two views (one where there is only one), in evaluation mode. Figures go
    to ``OUTPUT_DIR/logs/collapse.jsonl``: ``embedding_std``, ``effective_rank``, ``uniformity``, ``alignment`` (two
    views), what the method reports of itself (``method.health``: prototype usage, queue age), and ``collapsed``, which
    says whether the embeddings' spread or rank is below its bound, or one prototype takes all. A collapse is
    ``patience`` such looks in a row.

    Args:
        method: the method being trained.
        dataset: gives ``views`` for a `SampleKey`.
        output_dir: the run's folder.
        count: slices watched, evenly spread over the data.
        interval: epochs between two looks.
        min_std: bound of ``embedding_std``; 1 is even spread, 0 one point.
        min_rank: bound of ``effective_rank``; 1 is one direction.
        patience: looks in a row below a bound until it is called a collapse.
        stop: raise instead of warning.

    Raises:
        ConfigError: ``patience`` or ``interval`` below one, or fewer than two slices.
        DivergedError: (while training, with ``stop``) the method has collapsed.
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
                f"collapse guard: patience {patience} and interval {interval} must be at least 1, and two slices are "
                f"needed to compare, found {min(count, len(dataset))}"
            )
        self.method, self.dataset, self.stop = method, dataset, stop
        self.path = Path(output_dir) / "logs" / "collapse.jsonl"
        self.interval, self.patience = interval, patience
        self.min_std, self.min_rank = min_std, min_rank
        chosen = torch.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().long().tolist()
        self.keys = [SampleKey(0, index) for index in chosen]
        self.rows: list[dict[str, float]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def _open(self, engine: Any) -> None:
        if not self.rows and engine.state.iteration and self.path.is_file():
            lines = (json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines())
            self.rows = [row for row in lines if row["step"] <= engine.state.iteration]

    def __call__(self, engine: Any) -> None:
        """Look now; the first process does, and the others stop when it stops."""
        if process_rank() > 0:
            return
        row = {"step": engine.state.iteration, **self.measure(engine.state.device)}
        row["collapsed"] = self._collapsed(row)
        self.rows.append(row)
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in self.rows))
        recent = self.rows[-self.patience :]
        if len(recent) == self.patience and all(self._collapsed(r) for r in recent):
            self._tell(row)

    @torch.no_grad()
    def measure(self, device: str | torch.device) -> dict[str, float]:
        """The figures of this moment; leaves mode, weights and statistics of the method as they are."""
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

    def _collapsed(self, row: dict[str, float]) -> bool:
        spread, rank = row["embedding_std"] < self.min_std, row["effective_rank"] < self.min_rank
        return spread or rank or row.get("prototype_entropy", 1.0) < MIN_PROTOTYPE_ENTROPY

    def _tell(self, row: dict[str, float]) -> None:
        message = (
            f"the embeddings have collapsed at step {row['step']}: their spread is {row['embedding_std']:.3f} "
            f"(bound {self.min_std}) and their effective rank {row['effective_rank']:.2f} (bound {self.min_rank}); "
            f"{self.method.advice}"
        )
        if self.stop:
            raise DivergedError(message)
        logger.warning("%s", message)
