"""Which parameters a weight decay acts on."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def decayed(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on a parameter: not on tensors of one dimension, biases and mask tokens."""
    return parameter.ndim > 1 and not name.endswith(".bias") and name != "bias" and "mask_token" not in name


def parameter_groups(parameters: nn.Module | Iterable[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
    """Two groups for an optimizer: with ``weight_decay_scale`` 1 and 0, both with ``lr_scale`` 1.

    A schedule multiplies by the scales. Takes a module or its named parameters; frozen ones are left out, as is a
    group that would be empty.
    """
    named = parameters.named_parameters() if isinstance(parameters, nn.Module) else parameters
    trainable = [(name, parameter) for name, parameter in named if parameter.requires_grad]
    groups: list[dict[str, Any]] = []
    for scale in (1.0, 0.0):
        chosen = [parameter for name, parameter in trainable if decayed(name, parameter) == (scale > 0)]
        if chosen:
            groups.append({"params": chosen, "weight_decay_scale": scale, "lr_scale": 1.0})
    return groups


def weight_decay_groups(network: nn.Module, weight_decay: float, decay_all: bool = False) -> list[dict[str, Any]]:
    """`parameter_groups` with their ``weight_decay``; with `decay_all` one group, in which it acts on everything."""
    if decay_all:
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        return [{"params": trainable, "weight_decay_scale": 1.0, "lr_scale": 1.0, "weight_decay": weight_decay}]
    groups = parameter_groups(network)
    for group in groups:
        group["weight_decay"] = weight_decay * group["weight_decay_scale"]
    return groups
