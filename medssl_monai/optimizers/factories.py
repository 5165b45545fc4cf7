"""The optimizer of each method, and the parameter groups that all of them share.

Every factory takes the trainable parameters of a network. Each group has the keys ``lr_scale`` and
``weight_decay_scale``, by which the schedules multiply (`medssl_monai.optimizers.schedules`).
"""

from typing import Any

import torch
from timm.optim.lamb import Lamb
from torch import nn
from torch.optim import Optimizer

from medssl_monai.optimizers.lars import LARS


def moco_sgd(
    network: nn.Module, lr: float, weight_decay: float = 1e-4, momentum: float = 0.9, decay_all: bool = True
) -> Optimizer:
    """SGD with momentum, for MoCo (He et al. 2020, arXiv 1911.05722, section 3.4).

    With `decay_all` false, biases and parameters of one dimension have no weight decay.
    """
    return torch.optim.SGD(weight_decay_groups(network, weight_decay, decay_all), lr=lr, momentum=momentum)


def byol_adam(
    network: nn.Module,
    lr: float,
    weight_decay: float = 1.5e-6,
    betas: tuple[float, float] = (0.9, 0.999),
    decay_all: bool = False,
) -> Optimizer:
    """Adam, for BYOL as Wolf et al. 2023 train it; BYOL's paper uses LARS (arXiv 2006.07733, section 3.3).

    Weight decay is part of the gradient. Biases and parameters of one dimension have none, as in BYOL's paper, unless
    `decay_all` is true.
    """
    return torch.optim.Adam(weight_decay_groups(network, weight_decay, decay_all), lr=lr, betas=(betas[0], betas[1]))


def swav_lars(
    network: nn.Module,
    lr: float,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 0.001,
    decay_all: bool = True,
) -> Optimizer:
    """LARS, for SwAV (Caron et al. 2020, arXiv 2006.09882, appendix A).

    With `decay_all` false, biases and parameters of one dimension have neither weight decay nor trust ratio, as in
    BYOL's paper.
    """
    groups = weight_decay_groups(network, weight_decay, decay_all)
    optimizer: Optimizer = LARS(groups, lr=lr, momentum=momentum, trust_coeff=trust_coefficient)
    return optimizer


def spark_lamb(
    network: nn.Module,
    lr: float,
    weight_decay: float = 0.04,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-6,
    max_grad_norm: float | None = 5.0,
) -> Optimizer:
    """LAMB, for SparK (You et al. 2020, arXiv 1904.00962); it clips the gradients' global norm to `max_grad_norm`.

    Tensors of one dimension, biases and mask tokens have neither weight decay nor trust ratio.
    """
    groups = weight_decay_groups(network, weight_decay)
    optimizer: Optimizer = Lamb(groups, lr=lr, betas=betas, eps=eps, max_grad_norm=max_grad_norm)
    return optimizer


def weight_decay_groups(network: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay; a group that would be empty is left out.

    Tensors of one dimension, biases and mask tokens have no weight decay, unless `decay_all` is true. Frozen parameters
    are in no group.
    """
    chosen: dict[float, list[nn.Parameter]] = {1.0: [], 0.0: []}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            chosen[1.0 if decay_all or _is_decayed(name, parameter) else 0.0].append(parameter)
    return [
        {"params": members, "weight_decay_scale": scale, "lr_scale": 1.0, "weight_decay": weight_decay * scale}
        for scale, members in chosen.items()
        if members
    ]


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.split(".")[-1] != "bias" and "mask_token" not in name
