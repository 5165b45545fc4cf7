"""An optimizer step is a few operations on lists of tensors, not a loop over tensors: each is a launch on a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medssl_monai.networks.moving_average import follow, follower
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, spark_lamb, swav_lars

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


def test_the_moving_average_is_no_loop_over_tensors(network: nn.Module) -> None:
    average = follower(network)
    with Count() as count:
        follow(average, network, 0.99)
    assert len(count.names) < 10
