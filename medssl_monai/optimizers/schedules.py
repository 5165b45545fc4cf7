"""Schedules of learning rate and weight decay, as closed forms of the step, so that a resumed run needs no state.

Optimizer steps count from 0; a value applies during its step.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

from torch.optim import Optimizer

from medssl_monai.errors import ConfigError


class Position(Protocol):
    """The position of a run, such as `medssl_monai.methods.base.Progress`."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""


def cosine(step: int, steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at the last one, steps − 1; `end` from there on."""
    share = min(1.0, step / max(1, steps - 1))
    return end + (start - end) * (0.5 + 0.5 * math.cos(math.pi * share))


def warmup_cosine(
    step: int, total_steps: int, warmup_steps: int, peak: float, start_ratio: float = 0.005, final_ratio: float = 0.001
) -> float:
    """Linear from start_ratio · peak to `peak` at `warmup_steps`, then a cosine to final_ratio · peak at the end.

    The defaults are SparK's (arXiv 2301.03580, appendix; numbers from its published code).
    """
    if step < warmup_steps:
        return peak * (start_ratio + (1.0 - start_ratio) * step / warmup_steps)
    return cosine(step - warmup_steps, total_steps - warmup_steps, peak, final_ratio * peak)


def recurring_cosine(
    position: int, length: int, warmup: int, peak: float, start: float = 0.0, end: float = 0.0, climb: int | None = None
) -> float:
    """Linear from `start` to `peak`, a cosine to `end` at `length`, then up again with a period of 2 (length − warmup).

    All arguments are in one unit, steps or epochs. The warm-up reaches the peak at `climb`, by default at `warmup`.
    """
    climb = warmup if climb is None else climb
    if position < warmup:
        return start + (peak - start) * min(1.0, position / max(1, climb))
    phase = math.pi * (position - warmup) / max(1, length - warmup)
    return end + (peak - end) * (0.5 + 0.5 * math.cos(phase))


def set_rates(optimizer: Optimizer, lr: float | None = None, weight_decay: float | None = None) -> None:
    """Write the rates into every group, multiplied by its ``lr_scale`` and ``weight_decay_scale`` (default 1)."""
    for group in optimizer.param_groups:
        if lr is not None:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        if weight_decay is not None:
            group["weight_decay"] = weight_decay * group.get("weight_decay_scale", 1.0)


@dataclass(frozen=True)
class WarmupCosine:
    """Warm-up and cosine for the learning rate; a cosine from `weight_decay` to `final_weight_decay`, if given.

    `warmup_epochs` must be shorter than the run, or the peak is never reached; `apply` raises ConfigError otherwise.
    """

    peak_lr: float
    warmup_epochs: float = 0.0
    weight_decay: float | None = None
    final_weight_decay: float | None = None
    start_ratio: float = 0.005
    final_ratio: float = 0.001

    def apply(self, optimizer: Optimizer, progress: Position) -> None:
        """Set the rates for the step of `progress`."""
        warmup_steps = round(self.warmup_epochs * progress.steps_per_epoch)
        if warmup_steps >= progress.total_steps:
            raise ConfigError(
                f"warmup_epochs: the warm-up must end before the run, found {self.warmup_epochs} epochs "
                f"({warmup_steps} steps) of {progress.total_steps} steps; lower it, or raise max_epochs"
            )
        lr = warmup_cosine(
            progress.step, progress.total_steps, warmup_steps, self.peak_lr, self.start_ratio, self.final_ratio
        )
        decay = self.weight_decay
        if decay is not None and self.final_weight_decay is not None:
            decay = cosine(progress.step, progress.total_steps, decay, self.final_weight_decay)
        set_rates(optimizer, lr, decay)


@dataclass(frozen=True)
class RecurringCosine:
    """Warm-up and cosine of a fixed length, independent of the run's, that rises again afterwards.

    The papers' recipes need it: Wolf et al. 2023 ran SwAV with a warm-up of 10 and a length of 800 *steps* (epochs were
    meant), BYOL with 10 and 100 epochs and `early_peak`, MoCo with the run's number of epochs. `warmup` and `length`
    are in `unit`; with "epoch" the rate is constant during an epoch. With `early_peak` the last epoch of the warm-up
    already has the peak.
    """

    peak_lr: float
    length: int
    warmup: int = 0
    unit: Literal["step", "epoch"] = "step"
    early_peak: bool = False

    def __post_init__(self) -> None:
        """Raises ConfigError for an unknown unit, or a warm-up that does not end before the length."""
        if self.unit not in ("step", "epoch"):
            raise ConfigError(f"unit: must be 'step' or 'epoch', found {self.unit!r}; choose one of these")
        if not 0 <= self.warmup < self.length:
            raise ConfigError(f"warmup: must be shorter than the length {self.length}, found {self.warmup}; lower it")

    def apply(self, optimizer: Optimizer, progress: Position) -> None:
        """Set the learning rate for the step of `progress`."""
        position = progress.step if self.unit == "step" else progress.step // progress.steps_per_epoch
        climb = self.warmup - 1 if self.early_peak else self.warmup
        set_rates(optimizer, recurring_cosine(position, self.length, self.warmup, self.peak_lr, climb=climb))
