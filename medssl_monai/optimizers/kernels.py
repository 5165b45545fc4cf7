"""Which kernels an optimizer's step runs: as few as possible."""

from typing import Any

import torch
from torch.optim import Optimizer

FUSED = (torch.optim.SGD, torch.optim.Adam)  # AdamW is an Adam


def choose_kernels(optimizer: Optimizer, fused: bool) -> None:
    """Set SGD and Adam to PyTorch's fused step, which reads and writes every tensor once, or leave torch's choice.

    timm's LARS and LAMB have no fused step; they run each operation on a list of tensors. States that are loaded later
    do not change the choice, so a run may move between a GPU and a CPU. Call it before the first step.

    Args:
        optimizer: a new one.
        fused: False leaves torch's choice.
    """
    if fused and isinstance(optimizer, FUSED):
        for group in optimizer.param_groups:
            group["fused"], group["foreach"] = True, False
    optimizer.register_load_state_dict_pre_hook(_with_present_kernels)


def _with_present_kernels(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    groups = [
        {**saved, **{name: group[name] for name in ("fused", "foreach") if name in group}}
        for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=False)
    ]
    # Groups that do not fit are left to load_state_dict, which refuses them.
    return {**state, "param_groups": groups + state["param_groups"][len(groups) :]}
