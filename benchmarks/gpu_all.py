"""Everything for a GPU in eight minutes: checks of correctness first, then every timing beside them.

    python benchmarks/gpu_all.py [--out results.txt]
    python benchmarks/gpu_all.py --device cpu --quick     # the same run on a CPU at toy size, to check that it works

A check that fails is printed, the timings go on, and the exit code is 1.
"""

import argparse
import contextlib
import copy
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measure import start
from train_step import LIGHTLY, METHODS, PROGRESS, batch_of, ours, step_of
from views import RECIPES, phantom_store

from medssl_monai.methods.spark import SparK
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.transforms import DeviceViews

HERE = Path(__file__).resolve().parent
# Of each loss: BYOL's is from -4 to 4, SparK's begins near 1, the others' near the logarithm of what they choose from.
RANGES = {"spark": 1.0, "moco": 8.0, "byol": 8.0, "swav": 6.0}


def check_views(device: str, quick: bool) -> str:
    """Both appliers make the same views."""
    worst = []
    with tempfile.TemporaryDirectory() as folder:
        store = phantom_store(Path(folder), 4, 128 if quick else 512)
        for name, transform in RECIPES.items():
            views = DeviceViews(transform)
            plain = SliceDataset(store, transform=views.draw)
            batch = views.apply(views.collate([plain[i] for i in range(4)]), device)
            wanted = SliceDataset(store, transform=transform)
            for i in range(4):
                pairs = zip(batch["views"], wanted[i]["views"], strict=True)
                error = max(float((a[i].cpu() - b).square().mean().sqrt()) for a, b in pairs)
                worst.append(0.25 * error)
            assert max(worst) < 5e-4, f"{name}: {max(worst):.1e} of the window's width, root mean square"
    return f"root mean square difference at most {max(worst):.1e} of the window's width"


def check_losses(device: str, quick: bool) -> str:
    """Losses on the device are those of the CPU; bfloat16 is near."""
    found = []
    for name in METHODS:
        torch.manual_seed(0)
        method, _ = ours(name, "resnet18")
        batch = batch_of(name, 8, 64, "cpu", torch.contiguous_format)
        losses = []
        for where, amp in (("cpu", False), (device, False), (device, device != "cpu")):
            twin = copy.deepcopy(method).to(where, memory_format=torch.channels_last)
            there = {k: [v.to(where) for v in x] if isinstance(x, list) else x.to(where) for k, x in batch.items()}
            twin.before_step(PROGRESS)
            with torch.autocast(torch.device(where).type, torch.bfloat16, enabled=amp):
                losses.append(float(twin(there, PROGRESS)["loss"]))
        # In units of the loss's range, since BYOL's first loss is near zero.
        exact, half = (abs(loss - losses[0]) / RANGES[name] for loss in losses[1:])
        assert exact < 1e-4, f"{name}: {losses}"
        assert half < 1e-2, f"{name} in bfloat16: {losses}"
        found.append(f"{name} {exact:.0e}, bf16 {half:.0e}")
    return "differences over the range of the loss " + "; ".join(found)


def check_packed(device: str, quick: bool) -> str:
    """SparK on visible cells alone and under a mask give the same loss and gradients on the device."""
    torch.manual_seed(0)
    models = [SparK("resnet18", decoder_width=32, image_channels=1, packed=False).to(device)]
    models.append(copy.deepcopy(models[0]))
    models[1].packed = True
    batch = batch_of("spark", 4, 64, device, torch.channels_last)
    norms = []
    for model in models:
        model(batch)["loss"].backward()
        norms.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    difference = float((norms[0] - norms[1]).norm() / norms[0].norm())
    assert difference < 5e-3, f"gradients differ by {difference:.1e}"
    return f"gradients differ by {difference:.1e}"


def check_waiting(device: str, quick: bool) -> str:
    """A step never waits for the device: PyTorch's own watch on synchronisation says so."""
    if not device.startswith("cuda"):
        return "a GPU's to tell; without one: tests/engines/test_no_wait.py"
    for name in METHODS:
        method, optimizer = ours(name, "resnet18")
        method.to(device, memory_format=torch.channels_last)
        batch = batch_of(name, 8, 64, device, torch.channels_last)
        step = step_of(method, optimizer, batch, amp=True)
        step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        except RuntimeError as error:
            raise AssertionError(f"{name}: {error}") from error
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return "no step does"


CHECKS: tuple[Callable[[str, bool], str], ...] = (check_views, check_losses, check_packed, check_waiting)


def commands(device: str, quick: bool) -> list[list[str]]:
    """The benchmarks to run, the most wanted first."""
    where, there = ["--device", device], ["--slices_on_device", "1"]
    if quick:
        toy = [*where, "--arch", "resnet18", "--batch", "2"]
        graphs = ["--graph", "1", "--compiled", "1", "--backend", "eager"]
        return [
            ["train_step.py", *toy, "--size", "64", "--rounds", "1", "--methods", "spark", "--roofline", "1"],
            ["train_step.py", *toy, "--size", "64", "--rounds", "1", "--methods", "moco", *graphs],
            ["bundle_run.py", *where, "--quick", "1", "--methods", "moco"],
            ["views.py", *where, "--slices", "3", "--rounds", "1"],
            ["end_to_end.py", *toy, "--steps", "1", "--rounds", "1", "--slices", "4", "--methods", "moco"],
            ["end_to_end.py", *toy, *there, "--steps", "1", "--rounds", "1", "--slices", "4", "--methods", "moco"],
            ["memory.py", *toy, "--size", "64", "--methods", "moco"],
        ]
    end_to_end = ["end_to_end.py", "--workers", "8", "--on_device", "1", "--slices", "128"]
    many = [*where, "--amp", "1", "--batch", "64"]
    alone = ["--alone", "1", "--graph", "1"]
    return [
        ["train_step.py", *many, "--rounds", "8", "--graph", "1", "--roofline", "1", "--methods", *METHODS],
        ["bundle_run.py", *where, *there, "--methods", *METHODS],
        [*end_to_end, *many, *there, "--methods", *METHODS],
        ["train_step.py", *many, "--rounds", "5", *alone, "--compiled", "1", "--methods", "moco", "spark"],
        [
            "train_step.py",
            *where,
            "--amp",
            "1",
            "--batch",
            "256",
            "--rounds",
            "4",
            *alone,
            "--methods",
            "moco",
            "spark",
        ],
        ["train_step.py", *many, "--rounds", "5", *alone, "--compiled", "1", "--methods", "byol", "swav"],
        ["views.py", *where, "--slices", "64"],
        ["bundle_run.py", *where, "--slices_on_device", "0", "--methods", *METHODS],
        ["memory.py", *many],
        [
            "train_step.py",
            *where,
            "--batch",
            "64",
            "--rounds",
            "3",
            "--methods",
            *(["encoder"] if LIGHTLY else []),
            *METHODS,
        ],
    ]


def main() -> int:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="toy size")
    parser.add_argument("--limit", type=float, default=470, help="seconds in all; what is left then is left out")
    parser.add_argument("--out", type=Path, help="also write what is printed there")
    options = parser.parse_args()
    begin, failures, unfinished = time.monotonic(), 0, 0
    lines: list[str] = []

    def tell(text: str) -> None:
        print(text, flush=True)
        lines.append(text)
        if options.out:
            options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    start(options.device, 1)
    torch.backends.cudnn.allow_tf32 = (
        False  # of the checks, which compare with a CPU; each benchmark has torch's default
    )
    for check in CHECKS:
        try:
            tell(f"{check.__name__}: {check(options.device, options.quick)}")
        except Exception as error:  # a check must not keep the others and the timings from being seen
            failures += 1
            tell(f"{check.__name__} FAILED: {error}\n{traceback.format_exc()}")
    for command in commands(options.device, options.quick):
        left = options.limit - (time.monotonic() - begin)
        if left < 5:
            tell(f"left out: {' '.join(command)}")
            unfinished += 1
            continue
        tell(f"$ python benchmarks/{' '.join(command)}")
        try:
            run = subprocess.run(
                [sys.executable, "-W", "ignore", str(HERE / command[0]), *command[1:]],
                capture_output=True,
                text=True,
                timeout=left,
            )
            tell(run.stdout + (run.stderr[-2000:] if run.returncode else ""))
            failures += run.returncode != 0
        except subprocess.TimeoutExpired as stopped:
            unfinished += 1
            output: Any = stopped.stdout or b""
            with contextlib.suppress(AttributeError):
                output = output.decode()
            tell(f"{output}\nstopped: out of time")
    tell(f"{time.monotonic() - begin:.0f} s in all, {failures} failures, {unfinished} not finished in time")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
