"""A stand-in for a CUDA graph on a CPU: a replay runs the recorded function again, and hides that Python ran.

As with a real graph, a recording has no effect and its tensors hold nothing. A replay reads and writes only the tensors
of the recording, with its arguments, and changes no attribute of a module.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.engines.captured_step import Left

OF_TORCH = ("_parameters", "_buffers", "_modules")


class StandIn:
    """`Graph` for a method on a CPU."""

    def __init__(self, method: nn.Module) -> None:
        self.method = method
        self.compute: Callable[[], Left] | None = None

    def warm_up(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Run it."""
        return compute()

    def record(self, compute: Callable[[], Left]) -> Left:
        """Run it for the outlines of what it leaves, which is filled with NaN; all effects are undone."""
        random = torch.get_rng_state()
        buffers = [(x, x.clone()) for x in self.method.buffers()]
        with self._python_unchanged():
            self.static = _map(_poisoned, compute())
        for x, before in buffers:
            x.copy_(before)
        torch.set_rng_state(random)
        self.compute = compute
        return self.static

    def replay(self) -> None:
        """Run it again, and copy what it leaves into the tensors of the recording."""
        assert self.compute is not None
        with self._python_unchanged():
            found = self.compute()
        _map(lambda kept, new: kept.copy_(new), self.static, found)

    def seconds(self) -> float:
        """As if it took a second."""
        return 1.0

    def reset(self) -> None:
        """Nothing of the recording may be used again."""
        if self.compute is not None:
            _map(lambda x: x.copy_(_poisoned(x)), self.static)
        self.compute = None

    @contextmanager
    def _python_unchanged(self) -> Iterator[None]:
        before = [(m, {k: _copy(v) for k, v in vars(m).items() if k not in OF_TORCH}) for m in self.method.modules()]
        assert all(p.grad is None for p in self.method.parameters()), "gradients must be None before"
        yield
        for module, attributes in before:
            for name in set(vars(module)) - set(attributes) - set(OF_TORCH):
                delattr(module, name)
            vars(module).update(attributes)
        for parameter in self.method.parameters():
            parameter.grad = None


def _copy(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (list, dict, set)) else value


def _poisoned(x: Tensor) -> Tensor:
    return torch.full_like(x, torch.nan if x.is_floating_point() else -1)


def _map(function: Callable[..., Tensor], *left: Left) -> Left:
    first = left[0]
    return Left(
        {name: function(*(one.scalars[name] for one in left)) for name in first.scalars},
        [x if x is None else function(*(one.gradients[i] for one in left)) for i, x in enumerate(first.gradients)],
        [function(*(one.arrivals[i] for one in left)) for i in range(len(first.arrivals))],
    )
