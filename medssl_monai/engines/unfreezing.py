"""Fine-tuning as Wolf et al. 2023 document it: a frozen encoder first, then one with a smaller, rising rate."""

from typing import Any

import torch
from torch import nn

__all__ = ["BackboneUnfreezing"]


class BackboneUnfreezing:
    """Freezes a network's convolutions for some epochs, then trains them at a rate that rises to the head's.

    Epoch e (from 0) trains the convolutions at 0 for e < ``frozen_epochs``, then at
    ``learning_rate * min(1, first_ratio * growth ** (e - frozen_epochs))``; head and batch norm train throughout. A
    closed form of the epoch, so that a resumed run needs nothing from the past.

    Args:
        network: a torchvision ResNet with ``fc``.
        learning_rate: the head's.
        frozen_epochs: epochs before the convolutions are trained; 0 trains everything from the start at once.
        first_ratio: the convolutions' first rate over the head's.
        growth: factor an epoch.
        train_batch_norm: whether batch norm's scale and shift are trained while the convolutions are frozen (as in the
            reference); otherwise they are thawed with the convolutions.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        frozen_epochs: int = 10,
        first_ratio: float = 0.1,
        growth: float = 2.0,
        train_batch_norm: bool = True,
    ) -> None:
        self.learning_rate, self.frozen_epochs = learning_rate, frozen_epochs
        self.first_ratio, self.growth = first_ratio, growth
        head, norms, rest = _sort_parameters(network)
        self.head = head + norms if train_batch_norm else head
        self.backbone = rest if train_batch_norm else rest + norms

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Two groups for an optimizer: what always trains, and what is thawed."""
        return [{"params": self.head, "name": "head"}, {"params": self.backbone, "name": "backbone"}]

    def backbone_rate(self, epoch: int) -> float:
        """Learning rate of the convolutions in ``epoch`` (from 0)."""
        if epoch < self.frozen_epochs:
            return 0.0
        if self.frozen_epochs == 0:
            return self.learning_rate
        # The exponent is capped: beyond 64 doublings the minimum has long decided, and a float would overflow.
        ratio = self.first_ratio * self.growth ** min(epoch - self.frozen_epochs, 64)
        return self.learning_rate * min(1.0, ratio)

    def apply(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Freeze or thaw, and write the rates of ``epoch`` into the optimizer's groups."""
        thawed = epoch >= self.frozen_epochs
        for parameter in self.backbone:
            parameter.requires_grad_(thawed)
            if not thawed:
                parameter.grad = None
        rates = {"head": self.learning_rate, "backbone": self.backbone_rate(epoch)}
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]


def _sort_parameters(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the head (``fc``), of batch norms, and the rest, each once."""
    norms = {id(p) for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()}
    head, batch_norm, rest = [], [], []
    for name, parameter in network.named_parameters():
        if name.startswith("fc."):
            head.append(parameter)
        elif id(parameter) in norms:
            batch_norm.append(parameter)
        else:
            rest.append(parameter)
    return head, batch_norm, rest
