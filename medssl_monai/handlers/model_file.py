"""Writes the trained network as a flat state dict, the best by validation or the last."""

from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.atomic import write_atomically
from medssl_monai.errors import ConfigError
from medssl_monai.processes import process_rank
from medssl_monai.runs.folder import epoch_model
from medssl_monai.statistics.metrics import CHOICES


class ModelFile:
    """Writes ``OUTPUT_DIR/models/model.pt``.

    With validation data it is the network of the epoch with the best metric (attach after MONAI's
    ``ValidationHandler``); without, that of the last epoch. The best so far lives in the trainer's state, which
    `RunCheckpoint` saves.

    Args:
        network: its state dict is written, on the CPU.
        output_dir: the run's folder.
        validator: the evaluator with the metric; None, or one with an empty loader, without validation data.
        metric: a key of the validator's metrics; larger is better.
        every_epoch: also write ``models/epoch-0001.pt`` and so on, one an epoch, all of which are kept.

    Raises:
        ConfigError: the validator has no such metric (attached, where it has no more than `figures_for_choice`; else
            while training), or its value is NaN.
    """

    def __init__(
        self,
        network: nn.Module,
        output_dir: str | Path,
        validator: Engine | None = None,
        metric: str = "balanced_accuracy",
        every_epoch: bool = False,
    ) -> None:
        self.network, self.validator, self.metric, self.every_epoch = network, validator, metric, every_epoch
        self.path = Path(output_dir) / "models" / "model.pt"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.every_epoch:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._keep_epoch)
        if self.validator is not None and self.validator.state.epoch_length != 0:
            if getattr(self.validator.state, "key_metric_name", None) is None and self.metric not in CHOICES:
                raise ConfigError(
                    f"val_metric: must be one of {', '.join(sorted(CHOICES))}, found {self.metric!r}; give one of them"
                )
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._keep_best)
        else:
            engine.add_event_handler(Events.COMPLETED, self._write)

    def _keep_epoch(self, engine: Any) -> None:
        self._write(engine, epoch_model(self.path.parents[1], engine.state.epoch))

    def _keep_best(self, engine: Any) -> None:
        assert self.validator is not None
        found = self.validator.state.metrics
        if self.metric not in found:
            raise ConfigError(
                f"val_metric: must be one of {', '.join(sorted(found))}, found {self.metric!r}; give one of them"
            )
        value = float(found[self.metric])
        if value != value:
            raise ConfigError(
                f"val_metric: {self.metric} is not defined on this validation part, because no class has slices with "
                "and without it; set val_metric=log_likelihood, or give more validation patients"
            )
        if engine.state.best_metric_epoch == -1 or value > engine.state.best_metric:
            engine.state.best_metric, engine.state.best_metric_epoch = value, engine.state.epoch
            self._write(engine)

    def _write(self, engine: Any, path: Path | None = None) -> None:
        if process_rank() > 0:
            return
        state = {name: tensor.detach().cpu() for name, tensor in self.network.state_dict().items()}
        write_atomically(path or self.path, lambda p: torch.save(state, p))
