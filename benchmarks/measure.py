"""How every benchmark here measures: interleaved (A B A B), on one clock, with the machine and the versions beside it.

On one thread of a CPU the clock counts the process's own CPU time, so that a busy machine disturbs little; otherwise it
is wall time, and on a GPU the device is waited for on either side.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from medssl_monai.engines.captured_step import CudaGraph
from medssl_monai.engines.resumable import keep_freed_memory

PRODUCTS = {
    getattr(torch.ops.aten, name).default for name in ("convolution", "convolution_backward", "mm", "addmm", "bmm")
}
PACKAGES = ("medssl-monai", "torch", "torchvision", "monai", "timm", "lightly", "numpy", "opencv-python-headless")


def arguments(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    for name, value in defaults.items():
        kind = type(value[0]) if isinstance(value, list) else type(value)
        parser.add_argument(f"--{name}", type=kind, default=value, nargs="+" if isinstance(value, list) else None)
    return parser


def start(device: str, threads: int) -> None:
    """Fix the threads, keep freed memory on a CPU as our trainers do, and print machine and versions.

    Raises SystemExit where there is no such device.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit(f"--device {device}: PyTorch finds no CUDA device here; give --device cpu")
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    load = os.getloadavg()[0]
    print(f"machine: {cpu or platform.processor()}, {os.cpu_count()} cores, load {load:.1f}, threads {threads}")
    if device.startswith("cuda"):
        print(f"device: {torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    print("versions: python " + platform.python_version() + "".join(f", {p} {_version(p)}" for p in PACKAGES))
    print(f"clock: {'CPU time of the process' if _cpu_time(device) else 'wall time'}", flush=True)


def compare(
    candidates: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu", warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each candidate in each round, all candidates within every round."""
    clock = time.process_time if _cpu_time(device) else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(warm_up + rounds):
        for name, run in candidates.items():
            wait(device)
            begin = clock()
            run()
            wait(device)
            if number >= warm_up:
                seconds[name].append(clock() - begin)
    return seconds


def show(seconds: Mapping[str, Sequence[float]], per: float = 1.0, unit: str = "ms") -> None:
    """One line a candidate: median, least and most, of `per` items each."""
    for name, values in seconds.items():
        low, middle, high = (1e3 * f(values) / per for f in (min, statistics.median, max))
        print(f"  {name:<34} {middle:10.3f} {unit}  [{low:.3f} .. {high:.3f}]", flush=True)


def ratio(seconds: Mapping[str, Sequence[float]], above: str, below: str) -> float:
    """Median over the rounds of one candidate's time over another's; printed."""
    values = [a / b for a, b in zip(seconds[above], seconds[below], strict=True)]
    middle = statistics.median(values)
    print(f"  {above} / {below} = {middle:.2f}  [{min(values):.2f} .. {max(values):.2f}]", flush=True)
    return middle


class Products(TorchDispatchMode):
    """Notes every convolution and matrix product with the shape, layout and type of what it was given.

    `replay` runs them again, forward and backward, and nothing else: the floor of a step. `layers` has, for each, its
    name and shapes, the bytes that it must read and write, and its operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any]] = []
        self.layers: list[tuple[str, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS:
            self.calls.append((func, tree_map(_outline, args), kwargs or {}))
        out = func(*args, **(kwargs or {}))
        if func in PRODUCTS:
            given = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            moved = sum(x.numel() * x.element_size() for x in [*given, *tree_leaves(out)] if isinstance(x, Tensor))
            name = f"{func.overloadpacket.__name__} " + " ".join(str(list(x.shape)) for x in given)
            operations = flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
            self.layers.append((name, moved, operations))
        return out

    def replay(self, device: str) -> Callable[[], None]:
        """A function that runs the products; tensors of one outline share their memory."""
        memory: dict[Any, Tensor] = {}

        def tensor(value: Any) -> Any:
            if not isinstance(value, Outline):
                return value
            if value.key not in memory:
                shape, strides, kind = value.key
                size = 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
                made = torch.empty(size, dtype=kind, device=device).normal_(std=0.05)
                memory[value.key] = made.as_strided(shape, strides)  # expanded tensors share positions
            return memory[value.key]

        calls = [(func, tree_map(tensor, args), kwargs) for func, args, kwargs in self.calls]

        @torch.no_grad()
        def run() -> None:
            for func, args, kwargs in calls:
                func(*args, **kwargs)

        return run


class Outline:
    """Shape, strides and type of a tensor."""

    def __init__(self, x: Tensor) -> None:
        self.key = (tuple(x.shape), x.stride(), x.dtype)


def _outline(value: Any) -> Any:
    return Outline(value) if isinstance(value, Tensor) else value


def floor_of(step: Callable[[], Any], device: str) -> Callable[[], None]:
    """What runs a step's convolutions and matrix products alone."""
    with Products() as products:
        step()
    return graphed(products.replay(device), device)


def graphed(run: Callable[[], Any], device: str) -> Callable[[], Any]:
    """On a GPU `run` as a CUDA graph, which launches at once and so takes the device's time; elsewhere `run` itself."""
    if not device.startswith("cuda"):
        return run
    graph = CudaGraph(torch.device(device))
    graph.warm_up(run)
    graph.record(run)
    return graph.replay


def roofline(step: Callable[[], Any], bandwidth: float, peak: float) -> float:
    """Print each kind of a step's products with its bytes, operations and least time; the sum of these, in seconds.

    `bandwidth` in bytes and `peak` in operations a second. Whatever lies between the products would be fused with them.
    """
    with Products() as products:
        step()
    total = 0.0
    kinds = Counter(products.layers)
    least = {kind: count * max(kind[1] / bandwidth, kind[2] / peak) for kind, count in kinds.items()}
    print(f"  roofline at {bandwidth / 1e12:.2f} TB/s and {peak / 1e12:.0f} TFLOP/s; the layers with the most time:")
    for kind, seconds in sorted(least.items(), key=lambda item: -item[1]):
        if total < 0.9 * sum(least.values()):
            name, moved, operations = kind
            work = f"{moved / 1e6:8.1f} MB {operations / 1e9:8.2f} GFLOP"
            print(f"  {1e3 * seconds:8.3f} ms {kinds[kind]:4d} x {work}  {name}")
        total += seconds
    print(f"  roofline of convolutions and products: {1e3 * total:.2f} ms a step", flush=True)
    return total


def kernel_seconds(run: Callable[[], Any], device: str) -> float | None:
    """Device time of all kernels of `run`, by PyTorch's profiler; None without a GPU."""
    if not device.startswith("cuda"):
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run()
        wait(device)
    return seconds_of(found)


def seconds_of(found: profile) -> float:
    """Device time of all kernels and copies in a profile."""
    return float(sum(event.self_device_time_total for event in found.key_averages())) / 1e6


def markdown(rows: Mapping[str, Mapping[str, str]]) -> None:
    """Print rows as a Markdown table; an empty cell was not measured."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(row.get(column, "") for column in columns) + " |", flush=True)


def _cpu_time(device: str) -> bool:
    return not device.startswith("cuda") and torch.get_num_threads() == 1


def wait(device: str) -> None:
    """Wait for a GPU; a CPU needs none."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
