"""What a step moves through a device's memory, counted without the device.

    python benchmarks/traffic.py [--batch 64] [--methods spark moco byol swav]

The step runs on torch's meta device, in bfloat16 and channels-last: tensors have shapes and no values, so nothing is
computed, and a step that asked for a value would fail. Every operation counts the bytes of what it reads and writes
once. Kernels that read twice, or hold something in a cache, are not known to this count; fused ones neither. Compare
its figures with one another, and with a device's bandwidth for an idea of the time.
"""

import collections
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import torch
from measure import PRODUCTS, arguments, start
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from train_step import METHODS, batch_of, optimizer_of, ours, step_of


class Traffic(TorchDispatchMode):
    """Counts operations and bytes; views of a tensor move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: collections.Counter[Any] = collections.Counter()
        self.bytes: collections.Counter[Any] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_meta]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor) and t.is_meta]
        memory = {t.untyped_storage()._cdata for t in given}
        in_place = func._schema.is_mutable
        if not in_place and all(t.untyped_storage()._cdata in memory for t in made):
            return out  # a view, or nothing on the device
        moved = {id(t): _bytes(t) for t in [*given, *made]}
        self.operations[func] += 1
        self.bytes[func] += sum(moved.values()) + (_bytes(given[0]) if in_place and given else 0)
        return out


def _bytes(x: Tensor) -> int:
    """Of the positions that x really has: an expanded axis is stored once."""
    positions = 1
    for size, stride in zip(x.shape, x.stride(), strict=True):
        positions *= size if stride else 1
    return positions * x.element_size()


def count(name: str, arch: str, batch: int, size: int, packed: bool) -> None:
    """Print operations and gigabytes of one step."""
    layout = torch.channels_last
    method, _ = ours(name, arch, packed)
    method.to("meta", torch.bfloat16, memory_format=layout)
    optimizer = optimizer_of(name, method)
    for group in optimizer.param_groups:
        group["foreach"] = True  # as torch and timm choose by themselves on a GPU
    views = batch_of(name, batch, size, "cpu", layout)
    views["views"] = [view.to("meta", torch.bfloat16) for view in views["views"]]
    # The meta device does not know of autocast.
    with patch("torch.autocast", lambda *_, **__: nullcontext()), patch("torch.is_autocast_enabled", lambda *_: False):
        step = step_of(method, optimizer, views, amp=False)
        step()
        with Traffic() as traffic:
            step()
    total = sum(traffic.bytes.values())
    products = sum(value for func, value in traffic.bytes.items() if func in PRODUCTS)
    kind = {True: ", visible cells", False: ", under a mask"}[packed] if name == "spark" else ""
    print(
        f"{name + kind}: {total / 1e9:.1f} GB, of which convolutions and matrix products {products / 1e9:.1f} GB; "
        f"{sum(traffic.operations.values())} operations"
    )
    for func, value in traffic.bytes.most_common(8):
        print(f"  {func!s:<48} {value / 1e9:8.2f} GB  {traffic.operations[func]:5d} times", flush=True)


def main() -> None:
    """Count and print."""
    parser = arguments(__doc__ or "", batch=64, size=224, arch="resnet50")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    start("cpu", options.threads)
    for name in options.methods:
        for packed in (True, False) if name == "spark" else (True,):
            count(name, options.arch, options.batch, options.size, packed)


if __name__ == "__main__":
    main()
