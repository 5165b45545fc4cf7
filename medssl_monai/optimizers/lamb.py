"""LAMB as SparK uses it (You et al. 2020, arXiv 1904.00962)."""

from timm.optim.lamb import Lamb
from torch import nn
from torch.optim import Optimizer

from medssl_monai.optimizers.parameter_groups import parameter_groups


def spark_lamb(
    network: nn.Module,
    lr: float,
    weight_decay: float = 0.04,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-6,
    max_grad_norm: float | None = 5.0,
) -> Optimizer:
    """LAMB over the trainable parameters of `network`; the gradients' global norm is clipped to `max_grad_norm` inside.

    Tensors of one dimension, biases and mask tokens have neither weight decay nor a trust ratio.
    """
    groups = parameter_groups(network)
    for group in groups:
        group["weight_decay"] = weight_decay * group["weight_decay_scale"]
    optimizer: Optimizer = Lamb(groups, lr=lr, betas=betas, eps=eps, max_grad_norm=max_grad_norm)
    return optimizer
