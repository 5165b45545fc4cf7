"""What grows: processes, and the number of slices in a store.

    python benchmarks/scale.py [--processes 2] [--sizes 100000 1000000 10000000]

Weak scaling: each process has a batch of its own (gloo, one thread each); efficiency is the time of one process over
that of several (`--processes 0` leaves it out). Store size: an index of simulated rows is written, then opened,
filtered and sampled as a run does, by one process after another.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from measure import arguments, start
from train_step import PROGRESS, batch_of, ours

from medssl_monai.engines.resumable import keep_freed_memory
from medssl_monai.engines.sampler import StepBatchSampler
from medssl_monai.engines.slice_order import BLOCK
from medssl_monai.networks.process_batch_norm import use_process_batch_norm
from medssl_monai.processes import average_gradients, leave_processes, start_processes
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import INDEX_SCHEMA, SCHEMA_VERSION

TOGETHER = 500_000
"""Rows of a simulated index that are made at once."""
FILTERS = [["modality", "==", "CT"], ["plane", "==", "axial"], ["body_fraction", ">", 0.05]]


def worker(method_name: str, arch: str, size: int, batch_size: int, steps: int) -> None:
    """One process of the weak scaling: prints its seconds a step as JSON."""
    start_processes()
    torch.set_num_threads(1)
    keep_freed_memory()
    method, optimizer = ours(method_name, arch)
    if torch.distributed.is_initialized():
        use_process_batch_norm(method)
    batch = batch_of(method_name, batch_size, size, "cpu", torch.channels_last)
    seconds = []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        method.before_step(PROGRESS)
        optimizer.zero_grad(set_to_none=True)
        method(batch, PROGRESS)["loss"].backward()
        average_gradients(method.parameters())
        method.after_backward(PROGRESS)
        optimizer.step()
        method.after_step(PROGRESS)
        seconds.append(time.perf_counter() - begin)
    print(json.dumps(sorted(seconds[1:])[steps // 2]), flush=True)
    leave_processes()


def weak_scaling(method_name: str, arch: str, size: int, batch_size: int, steps: int, most: int) -> None:
    """Print seconds a step for 1 .. `most` processes."""
    alone = 0.0
    for processes in range(1, most + 1):
        settings = [method_name, arch, *map(str, (size, batch_size, steps))]
        command = [sys.executable, __file__, "--worker", *settings]
        common = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
        running = []
        for rank in range(processes):
            joined = {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            running.append(subprocess.Popen(command, env={**common, **joined}, stdout=subprocess.PIPE, text=True))
        found = [float(p.communicate()[0].strip().splitlines()[-1]) for p in running]
        seconds = max(found)
        alone = alone or seconds
        print(
            f"  {method_name}, {arch}, {size} px, {batch_size} slices a process: {processes} process(es) "
            f"{1e3 * seconds:.0f} ms a step wall, efficiency {100 * alone / seconds:.0f} %",
            flush=True,
        )


def write_simulated(folder: Path, rows: int) -> None:
    """A store without pixels: its index lists CT slices, 250 a series."""
    folder.mkdir()
    with pq.ParquetWriter(folder / "index.parquet", INDEX_SCHEMA, compression="zstd") as file:
        for first in range(0, rows, TOGETHER):
            file.write_table(simulated_index(first, min(rows, first + TOGETHER)))
    described = {"schema_version": SCHEMA_VERSION, "fingerprint": f"{rows:064x}", "slices": rows}
    (folder / "store.json").write_text(json.dumps(described))


def simulated_index(first: int, last: int) -> pa.Table:
    """Rows `first` to `last` of an index; a fifth are no axial slices of CT."""
    number = np.arange(first, last)
    series, rows = number // 250, last - first
    texts = pa.DictionaryArray.from_arrays(
        pa.array(series - series[0], pa.int32()), [f"{i:032x}" for i in range(series[0], series[-1] + 1)]
    )
    columns: dict[str, Any] = {}
    for field in INDEX_SCHEMA:
        if field.name in ("series_id", "patient", "source_id"):
            columns[field.name] = texts.cast(pa.string())
        elif field.name == "slice":
            columns[field.name] = pa.array(number % 250, field.type)
        elif field.name == "modality":
            columns[field.name] = pa.repeat(pa.scalar("CT"), rows)
        elif field.name == "plane":
            columns[field.name] = pa.array(np.where(series % 5 > 0, "axial", "coronal"), field.type)
        elif pa.types.is_list(field.type):
            columns[field.name] = pa.array([[0.0] * 16] * rows, field.type)
        elif pa.types.is_string(field.type):
            columns[field.name] = pa.repeat(pa.scalar("0" * 16), rows)
        else:
            columns[field.name] = pa.repeat(pa.scalar(1).cast(field.type), rows)
    return pa.table(columns, schema=INDEX_SCHEMA)


def opened_store(folder: Path) -> dict[str, float]:
    """Seconds that a process spends on opening, filtering and drawing, and the memory in MB that this adds to it."""
    before = memory_mb()
    marks = [time.perf_counter()]
    data = SliceDataset(SliceStore(folder), FILTERS)
    marks.append(time.perf_counter())
    batches = iter(StepBatchSampler(len(data), 256, seed=0, start_step=3))
    keys = next(batches)
    marks.append(time.perf_counter())
    for key in keys:
        data.row(key.index)
    marks.append(time.perf_counter())
    private, resident = (after - first for after, first in zip(memory_mb(), before, strict=True))
    marks.append(time.perf_counter())
    for _ in range(40):
        for key in next(batches):
            data.row(key.index)
    marks.append(time.perf_counter())
    opened, ordered, read, _, many = (later - earlier for earlier, later in itertools.pairwise(marks))
    return {
        "open": opened,
        "first": ordered + read,
        "draw": many / (40 * 256),
        "private": private,
        "resident": resident,
        "resident_later": memory_mb()[1] - before[1],
    }


def memory_mb() -> tuple[float, float]:
    """Memory of this process alone, and all that is resident for it, MB."""
    pages = dict(line.split(":") for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    kilobytes = {name: float(size.split()[0]) for name, size in pages.items()}
    return (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"]) / 1e3, kilobytes["Rss"] / 1e3


def store_size(rows: int, folder: Path, repeats: int) -> None:
    """Print what opening and drawing cost at this many rows, each time in a new process."""
    write_simulated(folder, rows)
    command = [sys.executable, __file__, "--open", str(folder)]

    def measured() -> dict[str, float]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result

    first, further = measured(), [measured() for _ in range(repeats)]
    told = {name: [one[name] for one in further] for name in further[0]}
    kept = sum(file.stat().st_size for file in folder.glob("selections/*/*"))
    print(
        f"  {rows:>9} rows: first opening {first['open']:.2f} s; further processes: open "
        f"{spread(told['open'], 1e3, 'ms')}, first batch of 256 {spread(told['first'], 1e3, 'ms')}, a draw "
        f"{spread(told['draw'], 1e6, 'us')}, memory {spread(told['private'], 1, 'MB')} of their own, "
        f"{spread(told['resident'], 1, 'MB')} with shared pages, {spread(told['resident_later'], 1, 'MB')} after "
        f"10,000 draws; index {(folder / 'index.parquet').stat().st_size / 1e6:.1f} MB, selection {kept / 1e6:.1f} MB",
        flush=True,
    )


def locality(rows: int, batch_size: int = 256, steps: int = 40) -> None:
    """Print what a window does to batches of a store of this size, 250 slices a series, in the order of its index."""
    for window in (None, 65536, 16384, 4096, 1024):
        sampler = StepBatchSampler(rows, batch_size, seed=0, shuffle_window=window)
        batches = [[key.index for key in step] for step in itertools.islice(sampler, steps)]
        series = [np.asarray(batch) // 250 for batch in batches]
        alike = [(batch[:, None] == batch).sum() - batch_size for batch in series]
        read = np.sort(np.concatenate(batches)) // BLOCK
        print(
            f"  window {window or 'none'}: {np.mean([len(np.unique(one)) for one in series]):.0f} series in a batch, "
            f"{np.mean(alike) / batch_size:.2f} other slices of its series beside a slice; {steps} batches read from "
            f"{len(np.unique(read))} blocks of {BLOCK}",
            flush=True,
        )


def spread(values: list[float], scale: float, unit: str) -> str:
    """Median, minimum and maximum."""
    ordered = sorted(scale * value for value in values)
    return f"{ordered[len(ordered) // 2]:.3g} [{ordered[0]:.3g} .. {ordered[-1]:.3g}] {unit}"


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
        return
    if sys.argv[1:2] == ["--open"]:
        print(json.dumps(opened_store(Path(sys.argv[2]))))
        return
    parser = arguments(
        __doc__ or "", processes=2, arch="resnet18", size=96, batch=8, steps=6, sizes=[10**5, 10**6, 10**7], repeats=5
    )
    parser.add_argument("--method", default="moco")
    options = parser.parse_args()
    start(options.device, options.threads)
    weak_scaling(options.method, options.arch, options.size, options.batch, options.steps, options.processes)
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.sizes:
            store_size(rows, Path(folder) / str(rows), options.repeats)
    locality(max(options.sizes))


if __name__ == "__main__":
    main()
