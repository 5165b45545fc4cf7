"""Stochastic gradient descent as MoCo uses it (He et al. 2020, arXiv 1911.05722, section 3.4)."""

import torch
from torch import nn
from torch.optim import Optimizer

from medssl_monai.optimizers.parameter_groups import weight_decay_groups


def moco_sgd(
    network: nn.Module, lr: float, weight_decay: float = 1e-4, momentum: float = 0.9, decay_all: bool = True
) -> Optimizer:
    """SGD with momentum over the trainable parameters of `network`.

    With `decay_all` false, biases and parameters of one dimension have no weight decay.
    """
    return torch.optim.SGD(weight_decay_groups(network, weight_decay, decay_all), lr=lr, momentum=momentum)
