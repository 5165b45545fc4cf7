"""Several processes, one run: what ``torchrun`` starts, joined, so that N compute what one computes on a batch."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn

from medssl_monai.processes import process_count

__all__ = ["average_gradients", "leave_processes", "start_processes"]


def start_processes() -> str:
    """Join the processes that ``torchrun`` started, over NCCL on GPUs and gloo on CPUs (small flags of the host too).

    Returns:
        This process's device: ``cuda:LOCAL_RANK``, or ``cpu``. Without torchrun nothing is joined.
    """
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if cuda:
        torch.cuda.set_device(local)
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    return f"cuda:{local}" if cuda else "cpu"


def leave_processes() -> None:
    """Leave them, if they were joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one all-reduce a type.

    Every process must have gradients for the same parameters. Unlike ``DistributedDataParallel`` this does not mind
    parameters that are frozen and thawed on the way.
    """
    if process_count() == 1:
        return
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= process_count()
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
