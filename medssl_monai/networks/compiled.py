"""Parts of a network that ``torch.compile`` fuses one by one, in training mode only.

Batch norm, ReLU and addition become one kernel, which saves a quarter of a step's device time (docs/performance.md).
Parts of equal shapes share what was compiled. Evaluation, with its other batch sizes, stays eager.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

RECOMPILE_LIMIT = 64
"""Kinds of one block: 8 in a ResNet-50, times two sizes of views, with and without gradients; twice that."""

Function = TypeVar("Function", bound=Callable[..., Any])


class PartlyCompiled:
    """For an `nn.Module` that runs its parts by ``self.compiled(function)``; eager until `compile_parts`.

    No name in its state changes.
    """

    training: bool
    _compilation: Any = None  # a function and what it became, by function

    def compile_parts(self, backend: Any = "inductor") -> None:
        """Compile the parts from now on, each when it runs first; `backend` is torch.compile's."""
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
        self._compilation = _Compilation(backend)

    def compiled(self, function: Function) -> Function:
        """`function`, compiled in training mode after `compile_parts`."""
        if self._compilation is None or not self.training:
            return function
        result: Function = self._compilation(function)
        return result


class _Compilation:
    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.known: dict[Any, Any] = {}

    def __call__(self, function: Any) -> Any:
        if function not in self.known:
            self.known[function] = torch.compile(function, dynamic=False, backend=self.backend)
        return self.known[function]

    def __deepcopy__(self, memo: Any) -> "_Compilation":
        return _Compilation(self.backend)


def output_of(part: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """``part(x)``, as a function that every part of a network shares when it is compiled."""
    output: torch.Tensor = part(x)
    return output
