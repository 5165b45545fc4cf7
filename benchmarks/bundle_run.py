"""A real run of each pre-training bundle: milliseconds a step, and how busy it keeps the device.

    python benchmarks/bundle_run.py [--device cuda --methods spark moco byol swav]
    python benchmarks/bundle_run.py --device cpu --quick 1 --methods moco

The bundle runs in this process with its own recipe, as `medssl pretrain` runs it, on a phantom store. The slices lie
on the device (--slices_on_device 0: the loader reads them in every pass). The first steps,
in which loaders start and the step is recorded, are left out. The others are profiled: the busy share is the time of
all kernels over wall time.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from ignite.engine import Events
from measure import arguments, markdown, seconds_of, start, wait
from monai.bundle import ConfigWorkflow
from torch.profiler import ProfilerActivity, profile
from train_step import METHODS
from views import phantom_store

from medssl_monai.resources import bundle_dir

FIRST = 30  # steps before the measurement


def measure(name: str, store: Any, folder: Path, options: Any) -> dict[str, str]:
    """One bundle's figures."""
    settings: dict[str, Any] = {
        "dataset_dir": str(store.path),
        "output_dir": str(folder / name),
        "device": options.device,
        "num_workers": options.workers,
        "max_epochs": 1,
        "epoch_length": FIRST + options.steps,
        "warmup_epochs": 0,
        "slices_on_device": bool(options.slices_on_device),
        "guard_interval": 1000,
    }
    first, last = FIRST, FIRST + options.steps
    if options.quick:
        first, last = 2, 4
        settings |= {"arch": "resnet18", "image_size": 64, "batch_size": 4, "num_workers": 0, "epoch_length": last}
        settings |= {"queue_length": 8} if name in ("moco", "swav") else {}
    begin = time.perf_counter()
    workflow = ConfigWorkflow(str(bundle_dir(f"ct_ssl_{name}") / "configs" / "train.yaml"), **settings)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train#trainer")
    row: dict[str, str] = {}
    found = profile(activities=[ProfilerActivity.CUDA]) if options.device.startswith("cuda") else None

    def first_step() -> None:
        wait(options.device)
        row["to the first step, s"] = f"{time.perf_counter() - begin:.1f}"

    def start_profile() -> None:
        wait(options.device)
        if found is not None:
            found.start()
        row["since"] = str(time.perf_counter())

    def stop_profile() -> None:
        wait(options.device)
        wall = time.perf_counter() - float(row.pop("since"))
        row["ms a step"] = f"{1e3 * wall / (last - first):.1f}"
        if found is not None:
            found.stop()
            row["device busy, %"] = f"{100 * seconds_of(found) / wall:.0f}"

    for step, action in ((1, first_step), (first, start_profile), (last, stop_profile)):
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=step), action)
    trainer.run()
    return row


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "", workers=14, steps=60, slices=256, slices_on_device=1, quick=0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    options = parser.parse_args()
    start(options.device, options.threads)
    with tempfile.TemporaryDirectory() as folder:
        store = phantom_store(Path(folder), 32 if options.quick else options.slices, 64 if options.quick else 512)
        markdown({name: measure(name, store, Path(folder), options) for name in options.methods})


if __name__ == "__main__":
    main()
