"""Sums and gatherings over the processes of a run; with one process, or none initialised, they change nothing.

Every process must call them in the same order. No gradient passes through them: where one must, as in batch norm, the
backward pass is written out and sums there too.
"""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def process_count() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def any_process(flag: bool, device: str | torch.device) -> bool:
    """Whether `flag` is true in any process, which all call this.

    Asked over the hosts where they are connected (`start_processes` does), else over `device`, which is waited for.
    """
    if process_count() == 1:
        return flag
    up = torch.tensor(float(flag), device="cpu" if "cpu:" in dist.get_backend_config() else device)
    dist.all_reduce(up)
    return bool(up > 0)


@torch.no_grad()
def process_sum(x: Tensor) -> Tensor:
    """The sum of every process's x, which has the same shape in each."""
    if process_count() == 1:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


@torch.no_grad()
def process_cat(x: Tensor, dim: int = 0) -> Tensor:
    """Every process's x, which has the same shape in each, side by side along `dim` in the order of their ranks."""
    if process_count() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(process_count())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts, dim=dim)


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
