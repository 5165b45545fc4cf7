"""LARS, layer-wise adaptive rate scaling (You et al. 2017, arXiv 1708.03888), as SwAV uses it."""

from collections.abc import Callable

import torch
from timm.optim.lars import Lars
from torch import Tensor, nn
from torch.optim import Optimizer

from medssl_monai.optimizers.parameter_groups import weight_decay_groups


class LARS(Lars):
    """timm's LARS, except that a tensor whose gradient is exactly zero is left to its momentum, without decay.

    So it is in the reference (Wolf et al. 2023, by lightning-bolts): a tensor of norm zero, or with a gradient of
    norm zero, has neither trust ratio nor weight decay. A weight decay of 0 switches a group's trust ratio off.
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step; tensors without a gradient (None) are left alone altogether.

        A gradient of zero becomes minus the decay that is to come; the two are zero again, whatever the trust ratio.
        So nothing needs to be known of the values, and no device is waited for.
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


@torch.no_grad()
def _take_decay_from_zeros(parameters: list[nn.Parameter], weight_decay: float) -> None:
    """Gradients of norm zero become -`weight_decay` times their parameter; others stay as they are."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    still = (norms == 0).to(norms.dtype).unbind()  # 1 or 0, () each
    torch._foreach_addcmul_(gradients, list[Tensor](parameters), list(still), value=-weight_decay)
