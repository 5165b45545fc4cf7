"""Sums and gatherings over the processes of a run; with one process, or none initialised, they change nothing.

Every process must call them in the same order. No gradient passes through them: where one must, as in batch norm, the
backward pass is written out and sums there too.
"""

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["any_process", "process_cat", "process_count", "process_rank", "process_sum"]


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
