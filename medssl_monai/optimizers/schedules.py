"""Learning rate and weight decay as closed forms of the step, so that a resumed run needs no state of theirs.

A step counts optimizer steps from 0; a value is the one in force during that step.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from torch.optim import Optimizer

from medssl_monai.errors import ConfigError

__all__ = ["WarmupCosine", "cosine", "set_rates", "warmup_cosine"]


class Position(Protocol):
    """Where a run stands, e.g. `medssl_monai.methods.base.Progress`."""

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
    """Straight from start_ratio · peak to `peak` at `warmup_steps`, then a cosine to final_ratio · peak at the end.

    The defaults are SparK's (arXiv 2301.03580, appendix; the numbers are its published code's).
    """
    if step < warmup_steps:
        return peak * (start_ratio + (1.0 - start_ratio) * step / warmup_steps)
    return cosine(step - warmup_steps, total_steps - warmup_steps, peak, final_ratio * peak)


def set_rates(optimizer: Optimizer, lr: float | None = None, weight_decay: float | None = None) -> None:
    """Write the rates into every parameter group, times its ``lr_scale`` and ``weight_decay_scale`` (1 if absent)."""
    for group in optimizer.param_groups:
        if lr is not None:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        if weight_decay is not None:
            group["weight_decay"] = weight_decay * group.get("weight_decay_scale", 1.0)


@dataclass(frozen=True)
class WarmupCosine:
    """Warm-up and cosine for the learning rate; a cosine from `weight_decay` to `final_weight_decay`, if given.

    `warmup_epochs` is shorter than the run: `apply` raises ConfigError otherwise, since the peak would never be met.
    """

    peak_lr: float
    warmup_epochs: float = 0.0
    weight_decay: float | None = None
    final_weight_decay: float | None = None
    start_ratio: float = 0.005
    final_ratio: float = 0.001

    def apply(self, optimizer: Optimizer, progress: Position) -> None:
        """Set the rates for the step that `progress` stands at."""
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
