"""Memory of a train step, the largest batch that fits, and the price of running blocks again (`recompute`).

    python benchmarks/memory.py [--device cuda --batch 64 --amp 1]

On a GPU: peak of allocated memory. On a CPU: bytes that the forward pass keeps for the backward pass, counted once a
storage, plus weights, gradients and optimizer state; scratch space is not in it. The largest batch is a straight line
through two batch sizes, at 90 % of the memory.
"""

import time
from typing import Any

import torch
from measure import arguments, start
from torch import Tensor
from train_step import METHODS, PROGRESS, batch_of, ours, step_of

CAPACITIES = (16, 24, 80)  # GB


def kept_by_forward(method: Any, batch: dict[str, Any], amp: bool) -> int:
    """Bytes of the tensors saved for the backward pass, parameters left out."""
    own = {x.untyped_storage().data_ptr() for x in (*method.parameters(), *method.buffers())}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def note(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own and storage.data_ptr() not in sizes:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(x.detach())  # or its address might be given away
        return x

    device = batch["views"][0].device.type
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), torch.autocast(device, enabled=amp):
        loss = method(batch, PROGRESS)["loss"]
    del loss
    return sum(sizes.values())


def measure(name: str, batch_size: int, recompute: bool, options: Any) -> tuple[float, float]:
    """GB of a step, and its seconds."""
    torch.manual_seed(0)
    method, optimizer = ours(name, options.arch)
    method.encoder.recompute = recompute
    method.to(options.device, memory_format=torch.channels_last)
    batch = batch_of(name, batch_size, options.size, options.device, torch.channels_last)
    step = step_of(method, optimizer, batch, bool(options.amp))
    step()
    cuda = options.device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter() if cuda else time.process_time()
    step()
    if cuda:
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() / 1e9, time.perf_counter() - begin
    seconds = time.process_time() - begin
    method.before_step(PROGRESS)
    kept = kept_by_forward(method, batch, bool(options.amp))
    weights = sum(x.nbytes for x in (*method.parameters(), *method.buffers()))
    gradients = sum(x.nbytes for x in method.parameters() if x.requires_grad)
    states = sum(x.nbytes for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor))
    return (kept + weights + gradients + states) / 1e9, seconds


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "", batch=4, size=224, amp=0, arch="resnet50")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    start(options.device, options.threads)
    print(f"{options.arch}, {options.size} px, amp {bool(options.amp)}; batch {options.batch}, a line through half")
    for name in options.methods:
        price: list[float] = []
        for recompute in (False, True):
            half, _ = measure(name, options.batch // 2, recompute, options)
            whole, seconds = measure(name, options.batch, recompute, options)
            price.append(seconds)
            slope = (whole - half) / (options.batch - options.batch // 2)
            base = whole - slope * options.batch
            largest = {gb: int((0.9 * gb - base) / slope) for gb in CAPACITIES}
            fits = ", ".join(f"{gb} GB: {count}" for gb, count in largest.items())
            print(
                f"  {name:<6} recompute {recompute!s:<5} {whole:7.2f} GB = {base:.2f} + {slope:.3f} a slice; {fits}",
                flush=True,
            )
        print(f"  {name:<6} a step with recompute takes {price[1] / price[0]:.2f} times as long", flush=True)


if __name__ == "__main__":
    main()
