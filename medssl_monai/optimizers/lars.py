"""LARS, layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888), as SwAV uses it."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from timm.optim.lars import Lars
from torch import nn
from torch.optim import Optimizer

from medssl_monai.optimizers.parameter_groups import weight_decay_groups

__all__ = ["LARS", "swav_lars"]


class LARS(Lars):
    """timm's LARS, except that a tensor whose gradient is exactly zero is left to its momentum, without decay.

    So it is in the reference (Wolf et al. 2023, by lightning-bolts): a tensor of norm zero, or with a gradient of
    norm zero, has neither trust ratio nor weight decay. A weight decay of 0 switches a group's trust ratio off.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; tensors without a gradient (None) are left alone altogether."""
        groups = self.param_groups
        self.param_groups = [part for group in groups for part in _by_gradient(group)]
        try:
            loss: float | None = super().step(closure)  # type: ignore[no-untyped-call]
        finally:
            self.param_groups = groups
        return loss


def swav_lars(
    network: nn.Module,
    lr: float,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    decay_all: bool = True,
) -> Optimizer:
    """LARS over the trainable parameters of `network`, as SwAV takes it (arXiv 2006.09882, appendix A).

    With `decay_all` false, biases and parameters of one dimension have neither weight decay nor trust ratio, as in
    BYOL's paper.
    """
    groups = weight_decay_groups(network, weight_decay, decay_all)
    optimizer: Optimizer = LARS(groups, lr=lr, momentum=momentum, trust_coeff=trust_coefficient)
    return optimizer


def _by_gradient(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The group in two: parameters whose gradient is not zero, and those, without decay, where it is."""
    parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
    if not parameters or group["weight_decay"] == 0:
        yield group | {"params": parameters}
        return
    norms = torch.stack(torch._foreach_norm([parameter.grad for parameter in parameters])).tolist()
    moved = [parameter for parameter, norm in zip(parameters, norms, strict=True) if norm != 0]
    still = [parameter for parameter, norm in zip(parameters, norms, strict=True) if norm == 0]
    yield group | {"params": moved}
    yield group | {"params": still, "weight_decay": 0.0}
