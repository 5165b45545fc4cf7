"""The train step of every method, ResNet-50: against its floor and against a peer, in one run, A B A B.

    python benchmarks/train_step.py [--device cuda --batch 64 --amp 1] [--methods spark moco byol swav] [--size 224]
    python benchmarks/train_step.py --alone 1 --bfloat16 1 --batch 16

Ours and the peer: zero_grad, forward, backward, optimizer and momentum update on the same views; the floor: our step's
convolutions and matrix products alone, forward and backward, same precision and layout. SparK's dense floor is that of
a step that computes hidden positions too. Goals: ours / floor at most 1.25 on a CPU, 1.15 on a GPU; peer / ours above 1
on a CPU, 2.5 on a GPU, SparK's encoder 2.
"""

import copy
import importlib.util
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from measure import arguments, compare, floor_of, kernel_seconds, markdown, ratio, roofline, show, start
from torch import Tensor

from medssl_monai.engines.captured_step import WARM_UP, CapturedStep, CudaGraph
from medssl_monai.engines.compilation import compile_method
from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.spark import SparK
from medssl_monai.methods.swav import SwAV
from medssl_monai.networks.masked import masked_features
from medssl_monai.networks.packed import Cells, packed_features, visible_index
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, spark_lamb, swav_lars
from medssl_monai.optimizers.kernels import choose_kernels

METHODS = ("spark", "moco", "byol", "swav")
LIGHTLY = importlib.util.find_spec("lightly") is not None  # the peers' package; without it there is no peer
ROWS: dict[str, dict[str, str]] = {}  # of the table at the end
PROGRESS = Progress(step=1, total_steps=100, epoch=0, steps_per_epoch=10)


def ours(name: str, arch: str = "resnet50", packed: bool = True) -> tuple[Method, torch.optim.Optimizer]:
    """A method and its optimizer as its bundle has them (SwAV without a queue, as the peer)."""
    if name == "spark":
        method: Method = SparK(arch, decoder_width=512, image_channels=1, packed=packed)
    elif name == "moco":
        method = MoCo(arch, queue_length=4096)
    elif name == "byol":
        method = BYOL(arch)
    else:
        method = SwAV(arch, prototypes=500, freeze_prototypes_steps=0)
    return method, optimizer_of(name, method)


def optimizer_of(name: str, method: Method) -> torch.optim.Optimizer:
    """The optimizer that a method's bundle has."""
    if name == "spark":
        return spark_lamb(method, lr=1e-4)
    if name == "moco":
        return moco_sgd(method, lr=0.006)
    if name == "byol":
        return byol_adam(method, lr=1e-3)
    return swav_lars(method, lr=0.1)


def batch_of(name: str, batch: int, size: int, device: str, layout: torch.memory_format) -> dict[str, Any]:
    """Random views (batch, 1, h, w), and SparK's mask, which stays on the host as in training."""
    generator = torch.Generator().manual_seed(0)
    small = 8 * round(size * 96 / 224 / 8)
    sides = {"spark": [size], "swav": [size] * 2 + [small] * 6}.get(name, [size] * 2)
    views = [torch.randn(batch, 1, s, s, generator=generator).to(device, memory_format=layout) for s in sides]
    made: dict[str, Any] = {"views": views}
    if name == "spark":
        made["mask"] = SparK("resnet18", 0.6, 32).draw_mask(batch, size, size, generator)
    return made


def step_of(
    method: Method, optimizer: torch.optim.Optimizer, batch: dict[str, Any], amp: bool, graph: bool = False
) -> Callable[[], Tensor]:
    """One optimizer step as `PretrainTrainer` takes it, eagerly or as a CUDA graph; gives the loss."""
    device = batch["views"][0].device
    prepared = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in method.prepare(batch).items()}

    def compute(batch: dict[str, Any], progress: Progress) -> dict[str, Tensor]:
        with torch.autocast(device.type, torch.bfloat16, enabled=amp):
            loss: Tensor = method(batch, progress)["loss"]
        loss.backward()
        return {"loss": loss.detach()}

    run: Callable[..., dict[str, Tensor]] = compute
    if graph:
        run = CapturedStep(method, compute, CudaGraph(device) if device.type == "cuda" else Again(), required=True)

    def step() -> Tensor:
        method.train()
        method.before_step(PROGRESS)
        optimizer.zero_grad(set_to_none=True)
        loss = run(prepared, PROGRESS)["loss"]
        method.after_backward(PROGRESS)
        optimizer.step()
        method.after_step(PROGRESS)
        return loss

    for _ in range(WARM_UP if graph else 0):
        step()
    return step


class Again:
    """In the place of a CUDA graph where there is no GPU, to try the script: what was recorded runs again."""

    def warm_up(self, compute: Any) -> Any:
        """Run it."""
        return compute()

    def record(self, compute: Any) -> Any:
        """Run it; its tensors are those of every replay, since only the time is of interest."""
        self.replay = compute
        return compute()

    def reset(self) -> None:
        """Nothing is held."""


def peer_of(name: str, method: Method, batch: dict[str, Any], layout: torch.memory_format, amp: bool) -> Any:
    """The peer's step on the same views; lightly's networks take three channels."""
    import peers

    if name != "spark":
        views = [v.expand(-1, 3, -1, -1).contiguous(memory_format=layout) for v in batch["views"]]
        return getattr(peers, name)(views, layout, amp)
    network = peers.GatherSparK(method)
    loss = partial(network, batch["views"][0], batch["mask"].to(batch["views"][0].device))
    return peers._stepper(network, spark_lamb(network, lr=1e-4), loss, amp)


def measure(name: str, options: Any) -> dict[str, float]:
    """Print one method's table; its ratios."""
    torch.manual_seed(0)
    layout = torch.channels_last if options.layout == "channels_last" else torch.contiguous_format
    amp = bool(options.amp)
    batch = batch_of(name, options.batch, options.size, options.device, layout)
    method, optimizer = twin_of(name, options, layout)
    step = step_of(method, optimizer, batch, amp)
    candidates: dict[str, Callable[[], Any]] = {"ours": step, "floor": floor_of(step, options.device)}
    if options.roofline:
        roofline(step, 1e12 * options.bandwidth, 1e12 * options.peak)
    if options.graph:
        candidates["ours, graph"] = step_of(*twin_of(name, options, layout), batch, amp, graph=True)
    if name == "spark":
        under_mask, other = ours(name, options.arch, packed=False)
        under_mask.to(options.device, memory_format=layout)
        dense = step_of(under_mask, other, batch, amp)
        candidates |= {"under a mask": dense, "dense floor": floor_of(dense, options.device)}
    if options.arch == "resnet50" and not options.alone and LIGHTLY:
        candidates["peer"] = peer_of(name, method, batch, layout, amp)
    if options.bfloat16:
        candidates["ours, bfloat16"] = step_of(*twin_of(name, options, layout), batch, amp=True)
    if options.compiled:
        twin, optimizer = twin_of(name, options, layout)
        compile_method(twin, options.backend)
        candidates["ours, compiled + graph"] = step_of(twin, optimizer, batch, amp, graph=True)
    print(f"{name}: {options.batch} x {options.size} px, {options.arch}, {options.layout}, amp {amp}")
    seconds = compare(candidates, options.rounds, options.device)
    show(seconds, per=options.batch, unit="ms an image")
    found = {"floor": ratio(seconds, "ours", "floor")}
    others = ("peer", "ours, graph", "ours, compiled + graph", "under a mask", "dense floor")
    found |= {k: ratio(seconds, k, "ours") for k in others if k in seconds}
    ROWS[f"{name}, batch {options.batch}, amp {amp}"] = {k: f"{1e3 * median(v):.1f}" for k, v in seconds.items()}
    kernels = kernel_seconds(step, options.device)
    if kernels is not None:
        ROWS[f"{name}, batch {options.batch}, amp {amp}"]["ours, kernels"] = f"{1e3 * kernels:.1f}"
    if options.bfloat16:
        found["ours, bfloat16"] = ratio(seconds, "ours", "ours, bfloat16")
    return found


def twin_of(name: str, options: Any, layout: torch.memory_format) -> tuple[Method, torch.optim.Optimizer]:
    """Another method of the same kind on the device, with its optimizer."""
    method, optimizer = ours(name, options.arch)
    method.to(options.device, memory_format=layout)
    choose_kernels(optimizer, fused=options.device.startswith("cuda"))
    return method, optimizer


def measure_encoder(options: Any) -> dict[str, float]:
    """SparK's encoder alone, forward and backward: visible cells, under a mask, and the peer's."""
    import peers

    torch.manual_seed(0)
    layout = torch.channels_last if options.layout == "channels_last" else torch.contiguous_format
    batch = batch_of("spark", options.batch, options.size, options.device, layout)
    model = SparK("resnet50", decoder_width=32, image_channels=1).to(options.device, memory_format=layout)
    twin, peer = copy.deepcopy(model), peers.GatherSparK(model)
    image, host_mask = batch["views"][0], batch["mask"]
    mask = host_mask.to(options.device)

    def run(maps: Callable[[], list[Tensor]]) -> Callable[[], None]:
        def once() -> None:
            with torch.autocast(image.device.type, torch.bfloat16, enabled=bool(options.amp)):
                found = maps()
            torch.stack([x.float().sum() for x in found]).sum().backward()

        return once

    packed = run(lambda: packed_features(model.encoder, image, Cells(visible_index(host_mask).to(image.device), mask)))
    print(f"spark's encoder: {options.batch} x {options.size} px, resnet50, {options.layout}, amp {bool(options.amp)}")
    candidates = {
        "packed": packed,
        "floor": floor_of(packed, options.device),
        "masked": run(lambda: masked_features(twin.encoder, image, mask)),
        "peer": run(lambda: peer.encode(image, mask)),
    }
    seconds = compare(candidates, options.rounds, options.device)
    show(seconds, per=options.batch, unit="ms an image")
    ratio(seconds, "packed", "floor")
    ratio(seconds, "masked", "packed")
    return {"encoder": ratio(seconds, "peer", "packed")}


def main() -> None:
    """Measure and print."""
    parser = arguments(
        __doc__ or "", batch=8, size=224, rounds=2, amp=0, bfloat16=0, graph=0, compiled=0, alone=0, arch="resnet50"
    )
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--roofline", type=int, default=0, help="print each layer's bytes, operations and least time")
    parser.add_argument("--bandwidth", type=float, default=3.0, help="of the device, TB/s; an H100's was measured")
    parser.add_argument("--peak", type=float, default=790.0, help="of the device, TFLOP/s; an H100's was measured")
    parser.add_argument("--methods", nargs="+", default=["encoder", *METHODS], choices=["encoder", *METHODS])
    parser.add_argument("--layout", default="channels_last", choices=["channels_last", "contiguous"])
    options = parser.parse_args()
    start(options.device, options.threads)
    for name in options.methods:
        if name == "encoder":
            measure_encoder(options)
        else:
            measure(name, options)
    if ROWS:
        print("ms a step:")
        markdown(ROWS)


if __name__ == "__main__":
    main()
