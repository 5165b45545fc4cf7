"""The loader's share of a train step, from store to optimizer, beside that of the PIL pipeline.

    python benchmarks/end_to_end.py [--device cuda --batch 64 --amp 1 --workers 8 --on_device 1 --slices_on_device 1]

On a CPU without workers loader and step take turns: the share is loader / (loader + step). With workers, or on a GPU,
the steps of a loop over the loader are timed against those on a batch that is there already: their ratio is how
busy the device is kept. With --slices_on_device a third loop reads no slices: they lie on the device.
"""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measure import arguments, compare, show, start
from train_step import METHODS, ours, step_of
from views import RECIPES, phantom_store, pil_pipeline, png_of

from medssl_monai.engines.loader import StepLoader
from medssl_monai.store.dataset import SliceDataset


def moved(loader: StepLoader, method: Any, batch: dict[str, Any], device: str) -> dict[str, Any]:
    """A batch as `PretrainTrainer` gives it to the method."""
    if loader.device_views is not None:
        batch = loader.device_views.apply(batch, device)
    batch = method.prepare(batch)
    there = {k: v.to(device, non_blocking=True) for k, v in batch.items() if isinstance(v, torch.Tensor)}
    views = [v.to(device, non_blocking=True, memory_format=torch.channels_last) for v in batch["views"]]
    return {**there, "views": views}


def measure(name: str, store: Any, options: Any) -> float:
    """Print one method's figures; the loader's share of the step."""
    recipe = RECIPES["moco, byol" if name in ("moco", "byol") else name]
    data = SliceDataset(store, transform=recipe)
    on_device = bool(options.on_device)
    loader = StepLoader(data, options.batch, 0, num_workers=options.workers, views_on_device=on_device)
    batches = iter(loader)
    method, optimizer = ours(name, options.arch)
    method.to(options.device, memory_format=torch.channels_last)
    there = moved(loader, method, next(batches), options.device)
    cached = step_of(method, optimizer, there, bool(options.amp))

    def loop(loader: StepLoader, batches: Any) -> None:
        for _ in range(options.steps):
            step_of(method, optimizer, moved(loader, method, next(batches), options.device), bool(options.amp))()

    def steps() -> None:
        for _ in range(options.steps):
            cached()

    print(f"{name}: {options.batch} slices a step, {options.workers} workers, views on device {on_device}")
    if options.workers == 0 and options.device == "cpu" and not options.slices_on_device:
        pngs = [png_of(store.read(r["series_id"], r["slice"])) for r in store.select(None)[: options.batch]]
        candidates = {
            "loader": lambda: next(batches),
            "step": cached,
            "PIL loader": lambda: _pil(pngs, len(there["views"])),
        }
        seconds = compare(candidates, options.rounds)
        show(seconds, per=options.batch, unit="ms a slice")
        share, pil = (sum(seconds[k]) / (sum(seconds[k]) + sum(seconds["step"])) for k in ("loader", "PIL loader"))
        print(f"  the loader's share: {100 * share:.1f} %, with PIL {100 * pil:.1f} % (views of one size each)")
        return share
    loops = {"from the store": partial(loop, loader, batches)}
    if options.slices_on_device:
        resident = StepLoader(data, options.batch, 0, slices_on_device=True, device=options.device)
        loops["slices on the device"] = partial(loop, resident, iter(resident))
    seconds = compare({**loops, "on a batch": steps}, options.rounds, options.device)
    show(seconds, per=options.batch * options.steps, unit="ms a slice")
    busy = {name: sum(seconds["on a batch"]) / sum(seconds[name]) for name in loops}
    for name, share in busy.items():
        print(f"  {name}: the device is kept {100 * share:.1f} % busy")
    return 1 - busy["from the store"]


def _pil(pngs: list[bytes], views: int) -> None:
    import io

    from PIL import Image

    pipeline = pil_pipeline()
    for png in pngs:
        image = Image.open(io.BytesIO(png)).convert("RGB")
        for _ in range(views):
            pipeline(image)


def main() -> None:
    """Measure and print."""
    parser = arguments(
        __doc__ or "",
        batch=4,
        rounds=2,
        steps=10,
        workers=0,
        on_device=0,
        slices_on_device=0,
        amp=0,
        arch="resnet50",
        slices=24,
    )
    parser.add_argument("--methods", nargs="+", default=["spark", "moco"], choices=METHODS)
    options = parser.parse_args()
    start(options.device, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = phantom_store(Path(folder), options.slices)
        for name in options.methods:
            measure(name, store, options)


if __name__ == "__main__":
    main()
