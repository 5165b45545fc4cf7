"""LARS, layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888), as Wolf et al. 2023 run it."""

from collections.abc import Callable

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn


class LARS(Lars):
    """timm's LARS, with one difference: a tensor with a gradient of exactly zero moves by its momentum alone.

    The reference (Wolf et al. 2023, from lightning-bolts) does the same: a tensor of norm zero, or with a gradient of
    norm zero, gets neither trust ratio nor weight decay. A weight decay of 0 switches a group's trust ratio off.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; tensors without a gradient (None) do not change.

        A gradient of zero is first replaced by minus the weight decay that timm's step adds. The two cancel under any
        trust ratio, so no value is read from the device.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters and group["weight_decay"] != 0:
                _take_decay_from_zeros(parameters, group["weight_decay"])
        super().step()  # type: ignore[no-untyped-call]
        return loss


@torch.no_grad()
def _take_decay_from_zeros(parameters: list[nn.Parameter], weight_decay: float) -> None:
    """Set gradients of norm zero to -`weight_decay` times their parameter; leave the others unchanged."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    still = (norms == 0).to(norms.dtype).unbind()  # 1 or 0, () each
    torch._foreach_addcmul_(gradients, list[Tensor](parameters), list(still), value=-weight_decay)
