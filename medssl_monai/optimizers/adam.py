"""Adam as BYOL is trained with it in Wolf et al. 2023; BYOL's paper takes LARS (arXiv 2006.07733, section 3.3)."""

import torch
from torch import nn
from torch.optim import Optimizer

from medssl_monai.optimizers.parameter_groups import weight_decay_groups


def byol_adam(
    network: nn.Module,
    lr: float,
    weight_decay: float = 1.5e-6,
    betas: tuple[float, float] = (0.9, 0.999),
    decay_all: bool = False,
) -> Optimizer:
    """Adam over the trainable parameters of `network`, with weight decay as part of the gradient.

    Biases and parameters of one dimension have no weight decay, as in BYOL's paper, unless `decay_all`.
    """
    return torch.optim.Adam(weight_decay_groups(network, weight_decay, decay_all), lr=lr, betas=(betas[0], betas[1]))
