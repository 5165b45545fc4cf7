"""Activation checkpointing: keep only a block's input and run the block again in the backward pass (arXiv 1604.06174).

It costs about one more forward pass of the blocks and saves most of their activations. The second pass draws the same
random numbers and does not change the running statistics of batch norms, so the results are the same.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def run_block(recompute: bool, block: nn.Module, function: Callable[..., Result], *arguments: Any) -> Result:
    """`function(*arguments)`, which uses the norms of `block`; checkpointed if `recompute` and gradients are on."""
    if not recompute or not torch.is_grad_enabled():
        return function(*arguments)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_held(block)

    result: Result = checkpoint(function, *arguments, use_reentrant=False, context_fn=contexts)
    return result


@contextmanager
def _statistics_held(block: nn.Module) -> Iterator[None]:
    # The second pass updates copies: autograd would notice in-place changes of the originals.
    held = [(module, dict(module._buffers)) for module in block.modules() if isinstance(module, _BatchNorm)]
    for module, buffers in held:
        module._buffers.update({name: x if x is None else x.clone() for name, x in buffers.items()})
    try:
        yield
    finally:
        for module, buffers in held:
            module._buffers.update(buffers)
