"""The processes of a run: joining them, and reductions over them.

Every process must call the reductions in the same order. With one process, or where none were joined, they return
their input. No gradient passes through them; an operation that needs one, such as batch norm, writes out its own
backward pass.
"""

import os
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start_processes() -> str:
    """Join the processes that ``torchrun`` started, over NCCL on GPUs (gloo for small flags) and gloo on CPUs.

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
    """Leave the process group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def process_count() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def any_process(flag: bool, device: str | torch.device) -> bool:
    """Whether `flag` is true in any process.

    The flags are exchanged between the hosts where gloo connects them (see `start_processes`), and otherwise over
    `device`, which is waited for.
    """
    if process_count() == 1:
        return flag
    up = torch.tensor(float(flag), device=_common_device(device))
    dist.all_reduce(up)
    return bool(up > 0)


def from_first_process(make: Callable[[], Tensor], like: Tensor, device: str | torch.device) -> Tensor:
    """What `make` gives in the first process, in all processes; the others wait and do not call it.

    Args:
        make: gives a tensor of the host.
        like: a tensor of the host, of the same shape and type.
        device: over which it is sent where no process group connects the hosts (see `start_processes`).
    """
    if process_count() == 1:
        return make()
    sent = (make() if process_rank() == 0 else torch.empty_like(like)).to(_common_device(device))
    dist.broadcast(sent, 0)
    return sent.cpu()


def _common_device(device: str | torch.device) -> str | torch.device:
    return "cpu" if "cpu:" in dist.get_backend_config() else device


@torch.no_grad()
def process_sum(x: Tensor) -> Tensor:
    """The sum of all processes' x, which must have the same shape in each."""
    if process_count() == 1:
        return x
    total = x.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def process_mean(x: Tensor) -> Tensor:
    """The mean of all processes' x, which must have the same shape in each."""
    return process_sum(x) / process_count()


@torch.no_grad()
def process_cat(x: Tensor, dim: int = 0) -> Tensor:
    """All processes' x, which must have the same shape in each, concatenated along `dim` in the order of ranks."""
    if process_count() == 1:
        return x
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(process_count())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts, dim=dim)


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes, in one all-reduce for each data type.

    Every process must have gradients for the same parameters. Unlike with ``DistributedDataParallel``, parameters may
    be frozen and thawed during a run.
    """
    if process_count() == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = process_mean(torch.cat([g.reshape(-1) for g in gradients]))
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))
