"""A trajectory of the reference's optimizer: its parameters, its gradients, and what they became."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.testing import assert_allclose
from torch import nn

from tests.golden import fill


def start_values(meta: Mapping[str, Any], seed: int, dtype: torch.dtype) -> dict[str, nn.Parameter]:
    """Parameters by name, before the first step."""
    values = {
        name: np.zeros(shape, np.float32) if name == "zero.weight" else fill.fill(name, shape, seed)
        for name, shape in meta["params"]
    }
    return {name: nn.Parameter(torch.from_numpy(value.copy()).to(dtype)) for name, value in values.items()}


def assert_follows(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    case: int,
    settings: Mapping[str, Any],
    want: Mapping[str, fill.Array],
    before_step: Callable[[int], None],
) -> None:
    """Step with the stored gradients; after each step the parameters must be the stored ones."""
    double = next(iter(parameters.values())).dtype is torch.float64
    tolerance, key = (1e-12, f"c{case}:") if double else (2e-6, f"c{case}_f32:")
    for step in range(settings["steps"]):
        before_step(step)
        scale = np.float32(settings["grad_scale"][step % len(settings["grad_scale"])])
        for name, parameter in parameters.items():
            gradient = fill.raw(f"grad/{step}/{name}", parameter.shape, settings["seed"]) * scale
            if name == "scalar.weight" and step == 2:
                gradient = np.zeros_like(gradient)
            skipped = [name, step] in settings["skip_grad"]
            parameter.grad = None if skipped else torch.from_numpy(gradient).to(parameter.dtype)
        optimizer.step()
        for name, parameter in parameters.items():
            assert_allclose(parameter.detach().numpy(), want[key + name][step], rtol=0, atol=tolerance, err_msg=name)
