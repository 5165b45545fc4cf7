"""What a self-supervised method is to the trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medssl_monai.networks.resnet import ResNetEncoder


@dataclass(frozen=True)
class Progress:
    """Where a run stands: `step` optimizer steps of `total_steps` are done, in `epoch` (both count from 0).

    Schedules are closed-form in it, so that a resumed run needs no state of theirs.
    """

    step: int
    total_steps: int
    epoch: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, 0 at the first step and below 1 at the last."""
        return self.step / self.total_steps if self.total_steps > 0 else 0.0


class Method(nn.Module):
    """A self-supervised method: an encoder, what surrounds it, and a loss.

    The trainer calls `before_step`, then `forward` and backward (several times under gradient accumulation), then
    `after_backward`, the optimizer, `after_step`: the hooks once per optimizer step. All that must survive a
    restart is in `state_dict()`.
    """

    encoder: ResNetEncoder
    host_keys: tuple[str, ...] = ()  # of a batch, left on the host: shapes follow from their values
    advice: str = "lower learning_rate, lengthen the warm-up, or look at the views"  # what to try after a collapse

    def before_step(self, progress: Progress) -> None:
        """Run before a step's first forward pass."""

    def forward(self, batch: Mapping[str, Any], progress: Progress) -> dict[str, Tensor]:
        """A batch to scalars: "loss", which is minimised, and others, which are logged."""
        raise NotImplementedError

    def after_backward(self, progress: Progress) -> None:
        """Run after a step's last backward pass, before the optimizer."""

    def after_step(self, progress: Progress) -> None:
        """Run after the optimizer."""

    def embed(self, view: Tensor) -> Tensor:
        """What the loss compares, of one view (B, 1|3, h, w): (B, D). The encoder's features, unless it says more."""
        features: Tensor = self.encoder(view)
        return features

    def health(self, embeddings: Tensor) -> dict[str, float]:
        """Figures that tell whether the method's own parts are alive, given what `embed` makes of some slices (N, D).

        Logged by the collapse guard.
        """
        return {}
