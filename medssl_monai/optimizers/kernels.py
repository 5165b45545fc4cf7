"""Which kernels an optimizer's step runs: as few as possible."""

from typing import Any

import torch
from torch.optim import Optimizer

FUSED = (torch.optim.SGD, torch.optim.Adam)  # AdamW is an Adam


def choose_kernels(optimizer: Optimizer, fused: bool) -> None:
    """Set SGD and Adam to PyTorch's fused step, which reads and writes every tensor once, or leave torch's choice.

    timm's LARS and LAMB have no fused step; they run each operation on a list of tensors. States that are loaded later
    do not change the choice, so a run may move between a GPU and a CPU. They take on the memory format of their
    parameters, because a fused step reads a tensor and its state in the order of the memory, and would silently mix
    the elements of two formats. Call it before the first step.

    Args:
        optimizer: a new one.
        fused: False leaves torch's choice.
    """
    if fused and isinstance(optimizer, FUSED):
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = True, False
    optimizer.register_load_state_dict_pre_hook(_with_present_kernels)
    optimizer.register_load_state_dict_post_hook(_in_the_parameters_format)


def _with_present_kernels(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = [
        {**saved, **{name: group[name] for name in ("fused", "foreach") if name in group}}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]
    # Groups that do not fit are left to load_state_dict, which refuses them.
    return {**state, "param_groups": groups + state["param_groups"][len(groups) :]}


def _in_the_parameters_format(optimizer: Optimizer) -> None:
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if torch.is_tensor(value) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
