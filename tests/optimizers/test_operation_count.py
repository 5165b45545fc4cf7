"""An optimizer step is a few operations on lists of tensors, not a loop over tensors: each is a launch on a GPU."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medssl_monai.methods.base import Progress
from medssl_monai.networks.moving_average import follow, follower
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, spark_lamb, swav_lars
from medssl_monai.optimizers.kernels import choose_kernels
from medssl_monai.optimizers.schedules import WarmupCosine

MOST = 200  # operations of a step on ResNet-50, which has 161 tensors of parameters


class Count(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types for it
    """Counts the operations that would launch a kernel.

    Views launch nothing. Nor do reads of Adam's and LAMB's step counters, which torch keeps on the host.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view and func.namespace == "aten" and func is not torch.ops.aten._local_scalar_dense.default:
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    network = resnet_encoder("resnet50")
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return network


@pytest.mark.parametrize("make", [moco_sgd, byol_adam, swav_lars, spark_lamb])
def test_a_step_is_no_loop_over_tensors(make: Callable[..., torch.optim.Optimizer], network: nn.Module) -> None:
    optimizer = make(network, lr=1e-3)
    for group in optimizer.param_groups:
        assert group["foreach"] is not False
        group["foreach"] = True  # torch's own choice on a GPU, which a CPU does not make
    optimizer.step()  # makes the state, tensor by tensor
    with Count() as count:
        optimizer.step()
    assert any("_foreach" in name for name in count.names)
    assert len(count.names) < MOST


@pytest.mark.parametrize("make", [moco_sgd, byol_adam])
def test_a_fused_step_is_one_operation_a_group(make: Callable[..., torch.optim.Optimizer], network: nn.Module) -> None:
    optimizer = make(network, lr=1e-3)
    choose_kernels(optimizer, fused=True)
    optimizer.step()
    with Count() as count:
        optimizer.step()
    fused = [name for name in count.names if "_fused_" in name]
    assert len(fused) == len(optimizer.param_groups)
    assert len(count.names) <= 3 * len(fused)


@pytest.mark.parametrize("make", [moco_sgd, byol_adam])
@pytest.mark.parametrize("saved_fused", [True, False])
def test_a_state_moves_between_fused_and_plain_steps(
    make: Callable[..., torch.optim.Optimizer], saved_fused: bool
) -> None:
    def fresh(fused: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer = make(network, lr=0.1)
        choose_kernels(optimizer, fused)
        return network, optimizer

    first, before = fresh(saved_fused)
    before.step()
    second, after = fresh(not saved_fused)
    second.load_state_dict(first.state_dict())
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    assert all(bool(group["fused"]) is not saved_fused for group in after.param_groups)
    before.step()
    after.step()
    torch.testing.assert_close(second.state_dict(), first.state_dict())


def test_schedules_write_numbers() -> None:
    """A tensor as a learning rate would switch multi-tensor steps off."""
    optimizer = moco_sgd(nn.Linear(2, 2), lr=0.1)
    WarmupCosine(0.1, 1.0, 0.04, 0.2).apply(optimizer, Progress(3, 20, 0, 5))
    assert all(type(group[name]) is float for group in optimizer.param_groups for name in ("lr", "weight_decay"))


def test_the_moving_average_is_no_loop_over_tensors(network: nn.Module) -> None:
    average = follower(network)
    with Count() as count:
        follow(average, network, 0.99)
    assert len(count.names) < 10


@pytest.mark.parametrize("make", [moco_sgd, byol_adam])
def test_a_state_of_another_memory_format_goes_on_as_the_same(make: Callable[..., torch.optim.Optimizer]) -> None:
    """A fused step reads parameter and state in the order of the memory: saved in one format, loaded in another."""

    def fresh(layout: torch.memory_format) -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 4, 3)
        network.weight.data = network.weight.data.contiguous(memory_format=layout)
        optimizer = make(network, lr=0.1)
        choose_kernels(optimizer, fused=True)
        return network, optimizer

    def step(network: nn.Conv2d, optimizer: torch.optim.Optimizer, seed: int) -> None:
        images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        network(images).square().sum().backward()
        optimizer.step()

    first, before = fresh(torch.contiguous_format)
    second, after = fresh(torch.channels_last)
    step(first, before, 1)
    second.load_state_dict(first.state_dict())
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    for seed in (2, 3):
        step(first, before, seed)
        step(second, after, seed)
    assert second.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(second.weight, first.weight, rtol=1e-4, atol=1e-6)
