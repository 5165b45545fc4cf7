"""The interface between a self-supervised method and the trainer."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from medssl_monai.networks.resnet import ResNetEncoder


@dataclass(frozen=True)
class Progress:
    """The position of a run: `step` of `total_steps` optimizer steps are done; `epoch` counts from 0 as well.

    Schedules are closed forms of it, so a resumed run needs no state of a schedule.
    """

    step: int
    total_steps: int
    epoch: int
    steps_per_epoch: int

    @property
    def fraction(self) -> float:
        """Completed share of the run: 0 at the first step, below 1 at the last."""
        return self.step / self.total_steps if self.total_steps > 0 else 0.0


class Method(nn.Module):
    """A self-supervised method: an encoder, its heads, and a loss.

    For each optimizer step the trainer calls `before_step`, then `prepare`, `forward` and backward (several times with
    gradient accumulation), then `after_backward`, the optimizer, and `after_step`. State that a resumed run needs must
    be in `state_dict()`.

    On a GPU the trainer can record `forward` and backward once as a CUDA graph and replay them. A replay runs kernels,
    but no Python. A method that sets `capturable` promises for `forward` in training mode:

    - it reads no value from the device, and no tensor on the host;
    - what it reads of `progress` and of its own Python attributes is in `capture_key`, or never changes;
    - it changes nothing but buffers, in place, and `arrivals`.

    Attributes:
        encoder: the network that is kept after pre-training.
        advice: what to try after a collapse, or where nothing is learned.
        chance_loss: loss of a network that gives the same answer for every image; None where there is no such figure.
        capturable: whether `forward` keeps the promise above.
        arrivals: tensors that `forward` leaves for `after_backward`, equally many in each forward pass of the step.
    """

    encoder: ResNetEncoder
    advice: str = "lower learning_rate, lengthen the warm-up, or look at the views"
    capturable: bool = False
    chance_loss: float | None = None

    def __init__(self) -> None:
        super().__init__()
        self.arrivals: list[Tensor] = []

    def before_step(self, progress: Progress) -> None:
        """Called before a step's first forward pass."""

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """A batch with what `forward` needs to know of its values on the host, as tensors of fixed shape.

        Called with the batch as the loader gives it, before it is moved to the device.
        """
        return batch

    def capture_key(self, progress: Progress) -> Hashable:
        """A value that differs between steps with different computations; a new one records the step again.

        Called after `before_step`.
        """
        return None

    def forward(self, batch: Mapping[str, Any], progress: Progress) -> dict[str, Tensor]:
        """Scalars of a batch: "loss", which is minimised, and others, which are logged."""
        raise NotImplementedError

    def after_backward(self, progress: Progress) -> None:
        """Called after a step's last backward pass, before the optimizer."""

    def after_step(self, progress: Progress) -> None:
        """Called after the optimizer."""

    def embed(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of one view (B, 1|3, h, w) that the loss compares; by default the encoder's features."""
        features: Tensor = self.encoder(view)
        return features

    def health(self, embeddings: Tensor) -> dict[str, float]:
        """Figures on the state of the method's own parts, for the collapse guard's log.

        Args:
            embeddings: (N, D), from `embed`.
        """
        return {}


def two_views(batch: Mapping[str, Any], name: str) -> tuple[Tensor, Tensor]:
    """The two views of a batch; raises ValueError, which names the method, for another number of views."""
    if len(batch["views"]) != 2:
        raise ValueError(f"views: {name} needs two, found {len(batch['views'])}; use {name}'s views")
    first, second = batch["views"]
    return first, second
