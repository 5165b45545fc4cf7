"""Moving averages of a network's parameters (MoCo's key encoder, BYOL's target network)."""

import copy
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def follower(network: Network) -> Network:
    """A copy without gradients, which only `follow` changes."""
    return copy.deepcopy(network).requires_grad_(False)


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, momentum: float) -> None:
    """average ← momentum · average + (1 − momentum) · network, for every parameter.

    Buffers do not change: both networks run in training mode with their own batch statistics. `momentum` is in [0, 1].
    """
    theirs = dict(network.named_parameters())
    pairs = [(ours, theirs[name]) for name, ours in average.named_parameters()]
    if pairs:
        torch._foreach_lerp_([ours for ours, _ in pairs], [value for _, value in pairs], 1.0 - momentum)
