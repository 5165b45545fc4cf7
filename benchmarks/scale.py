"""What grows: processes, and the number of slices in a store.

    python benchmarks/scale.py [--processes 2] [--sizes 1000 10000 100000 1000000]

Weak scaling: each process has a batch of its own (gloo, one thread each); efficiency is the time of one process over
that of several. Store size: an index of simulated rows is written, then opened, filtered and sampled as a run does.
"""

import itertools
import json
import os
import resource
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
from medssl_monai.networks.process_batch_norm import use_process_batch_norm
from medssl_monai.processes import average_gradients, leave_processes, start_processes
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import INDEX_SCHEMA, SCHEMA_VERSION

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


def simulated_index(rows: int) -> pa.Table:
    """An index of CT slices, 250 a series."""
    number = np.arange(rows)
    series = pa.DictionaryArray.from_arrays(
        pa.array(number // 250, pa.int32()), [f"{i:032x}" for i in range(-(-rows // 250))]
    )
    columns: dict[str, Any] = {}
    for field in INDEX_SCHEMA:
        if field.name in ("series_id", "patient", "source_id"):
            columns[field.name] = series.cast(pa.string())
        elif field.name == "slice":
            columns[field.name] = pa.array(number % 250, field.type)
        elif field.name in ("modality", "plane"):
            columns[field.name] = pa.repeat(pa.scalar("CT" if field.name == "modality" else "axial"), rows)
        elif pa.types.is_list(field.type):
            columns[field.name] = pa.array([[0.0] * 16] * rows, field.type)
        elif pa.types.is_string(field.type):
            columns[field.name] = pa.repeat(pa.scalar("0" * 16), rows)
        else:
            columns[field.name] = pa.repeat(pa.scalar(1).cast(field.type), rows)
    return pa.table(columns, schema=INDEX_SCHEMA)


def store_size(rows: int, folder: Path) -> None:
    """Print what opening, filtering and sampling cost at this many rows."""
    folder.mkdir()
    pq.write_table(simulated_index(rows), folder / "index.parquet")
    described = {"schema_version": SCHEMA_VERSION, "fingerprint": "simulated", "slices": rows}
    (folder / "store.json").write_text(json.dumps(described))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    marks = [time.perf_counter()]
    store = SliceStore(folder)
    assert store.index.num_rows == len(store)
    marks.append(time.perf_counter())
    data = SliceDataset(store, FILTERS)
    marks.append(time.perf_counter())
    batches = iter(StepBatchSampler(len(data), 256, seed=0, start_step=3))
    first = next(batches)
    marks.append(time.perf_counter())
    for _ in range(100):
        next(batches)
    marks.append(time.perf_counter())
    for key in first:
        data.row(key.index)
    marks.append(time.perf_counter())
    opened, filtered, sampled, hundred, read = (b - a for a, b in itertools.pairwise(marks))
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3
    print(
        f"  {rows:>9} rows: open {1e3 * opened:.0f} ms, filter {1e3 * filtered:.0f} ms, first batch "
        f"{1e3 * sampled:.1f} ms, later ones {10 * hundred:.3f} ms, 256 rows {1e3 * read:.1f} ms, index on disk "
        f"{(folder / 'index.parquet').stat().st_size / 1e6:.1f} MB, memory +{megabytes:.0f} MB",
        flush=True,
    )


def main() -> None:
    """Measure and print."""
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
        return
    parser = arguments(
        __doc__ or "", processes=2, arch="resnet18", size=96, batch=8, steps=6, sizes=[1000, 10000, 100000, 1000000]
    )
    parser.add_argument("--method", default="moco")
    options = parser.parse_args()
    start(options.device, options.threads)
    weak_scaling(options.method, options.arch, options.size, options.batch, options.steps, options.processes)
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.sizes:
            store_size(rows, Path(folder) / str(rows))


if __name__ == "__main__":
    main()
