"""The train step of every method, ResNet-50: against its floor and against a peer, in one run, A B A B.

    python benchmarks/train_step.py [--device cuda --batch 64 --amp 1] [--methods spark moco byol swav] [--size 224]
    python benchmarks/train_step.py --alone 1 --bfloat16 1 --batch 16

Ours and the peer: zero_grad, forward, backward, optimizer and momentum update on the same views; the floor: our step's
convolutions and matrix products alone, forward and backward, same precision and layout. SparK's dense floor is that of
a step that computes hidden positions too. Goals: ours / floor at most 1.25 on a CPU, 1.15 on a GPU; peer / ours above 1
on a CPU, 1.5 on a GPU, SparK's encoder 2.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from measure import arguments, compare, floor_of, ratio, show, start
from torch import Tensor

from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.spark import SparK
from medssl_monai.methods.swav import SwAV
from medssl_monai.networks.masked import masked_features
from medssl_monai.networks.packed import Cells, packed_features, visible_index
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, spark_lamb, swav_lars

METHODS = ("spark", "moco", "byol", "swav")
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
    method: Method, optimizer: torch.optim.Optimizer, batch: dict[str, Any], amp: bool, compiled: bool = False
) -> Callable[[], Tensor]:
    """One optimizer step as `PretrainTrainer` takes it; gives the loss."""
    forward: Any = torch.compile(method) if compiled else method
    device = batch["views"][0].device.type

    def step() -> Tensor:
        method.train()
        method.before_step(PROGRESS)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss: Tensor = forward(batch, PROGRESS)["loss"]
        loss.backward()
        method.after_backward(PROGRESS)
        optimizer.step()
        method.after_step(PROGRESS)
        return loss.detach()

    return step


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
    method, optimizer = ours(name, options.arch)
    method.to(options.device, memory_format=layout)
    step = step_of(method, optimizer, batch, amp)
    candidates: dict[str, Callable[[], Any]] = {"ours": step, "floor": floor_of(step, options.device)}
    if name == "spark":
        under_mask, other = ours(name, options.arch, packed=False)
        under_mask.to(options.device, memory_format=layout)
        dense = step_of(under_mask, other, batch, amp)
        candidates |= {"dense floor": floor_of(dense, options.device)}
    if options.arch == "resnet50" and not options.alone:
        candidates["peer"] = peer_of(name, method, batch, layout, amp)
    if options.bfloat16:
        twin, optimizer = ours(name, options.arch)
        twin.to(options.device, memory_format=layout)
        candidates["ours, bfloat16"] = step_of(twin, optimizer, batch, amp=True)
    if options.compiled:
        twin, optimizer = ours(name, options.arch)
        twin.to(options.device, memory_format=layout)
        candidates["ours, compiled"] = step_of(twin, optimizer, batch, amp, compiled=True)
    print(f"{name}: {options.batch} x {options.size} px, {options.arch}, {options.layout}, amp {amp}")
    seconds = compare(candidates, options.rounds, options.device)
    show(seconds, per=options.batch, unit="ms an image")
    found = {"floor": ratio(seconds, "ours", "floor")}
    found |= {k: ratio(seconds, k, "ours") for k in ("peer", "ours, compiled", "dense floor") if k in seconds}
    if options.bfloat16:
        found["ours, bfloat16"] = ratio(seconds, "ours", "ours, bfloat16")
    return found


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
        __doc__ or "", batch=8, size=224, rounds=2, amp=0, bfloat16=0, compiled=0, alone=0, arch="resnet50"
    )
    parser.add_argument("--methods", nargs="+", default=["encoder", *METHODS], choices=["encoder", *METHODS])
    parser.add_argument("--layout", default="channels_last", choices=["channels_last", "contiguous"])
    options = parser.parse_args()
    start(options.device, options.threads)
    for name in options.methods:
        if name == "encoder":
            measure_encoder(options)
        else:
            measure(name, options)


if __name__ == "__main__":
    main()
