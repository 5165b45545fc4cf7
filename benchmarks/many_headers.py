"""Memory and time of ingestion's first half with many files: listing, headers, grouping into series, verdicts.

    python benchmarks/many_headers.py [--sizes 10000 100000 1000000] [--slices 250] [--mixed 1]

Headers are simulated: one real header (of the phantom) with the UIDs, the patient, the position and the path of each of
N files. Files are neither opened nor decoded, and no series is written, so that what is measured is what grows with the
number of files. `--mixed 1` deals files out to all series in turn, as archives do that are sorted by another tool.
Each size has a process of its own, which prints seconds and its peak memory as the kernel counts it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from medssl_monai.ingest import pipeline
from medssl_monai.ingest.dicom.admission import Rules
from medssl_monai.ingest.scan import Found, look_at
from medssl_monai.ingest.sources.paths import PathList, SourceFile
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.store.verdicts import Outcome, Verdict
from medssl_monai.store.writer import StoreWriter

KEY = b"medssl-monai benchmark: no patients"


def simulate(files: int, slices: int, mixed: bool, folder: Path) -> dict[str, float]:
    """One run of `build_store`; its seconds, and MiB before and at the peak."""
    write_phantom(folder / "one", patients=2, seed=0, size=32, slices=3)
    first = next(path for path in sorted((folder / "one").rglob("*")) if path.is_file() and path.suffix != ".csv")
    real = look_at(SourceFile(first, first), Rules(modality="CT"))
    (template, refused) = real.instances[0]
    assert refused is None
    series = -(-files // slices)

    def found(file: SourceFile, rules: Rules) -> Found:
        number = int(file.path.stem)
        one, place = (number % series, number // series) if mixed else divmod(number, slices)
        instance = replace(
            template,
            path=file.path,
            content=file.content,
            series_uid=f"1.2.826.0.1.3680043.8.498.1.{one}",
            sop_uid=f"1.2.826.0.1.3680043.8.498.2.{number}",
            patient_id=f"patient {one // 2}",
            position=(-180.0, -180.0, 1.25 * place),
            number=place + 1,
        )
        return Found(file, ((instance, None),))

    def accepted(plan: Any, writer: StoreWriter, key: bytes, replaces: bool) -> tuple[Verdict, ...]:
        return (Verdict(Outcome.ACCEPTED, "series", plan.source_id, plan.series_id, slices=plan.files, modality="CT"),)

    def listed(*_: Any) -> PathList:
        def names() -> Iterator[str]:
            for number in range(files):
                yield f"/archive/patient-{number // slices // 2:06d}/series-{number // slices:06d}/{number:08d}.dcm"

        return PathList(names())

    for name, stand_in in {"find_files": listed, "look_at": found, "process": accepted}.items():
        setattr(pipeline, name, stand_in)
    before, begin = _peak(), time.perf_counter()
    pipeline.build_store([folder / "one"], folder / "store", key=KEY, modality="CT", progress=False)
    return {"seconds": time.perf_counter() - begin, "before": before, "peak": _peak(), "series": series}


def _peak() -> float:
    """MiB; the resource module would count the process that started this one."""
    (line,) = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main() -> None:
    """A table, a size a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--slices", type=int, default=250, help="of a series")
    parser.add_argument("--mixed", type=int, default=0)
    parser.add_argument("--one", type=int, default=0, help="a size to run in this process")
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(simulate(options.one, options.slices, bool(options.mixed), Path(folder))))
        return
    from measure import start  # it imports torch, which ingestion does not

    start("cpu", 1)
    print("\n| files | series | peak, MiB | at the start, MiB | a file, µs |\n|---|---|---|---|---|")
    for size in options.sizes:
        words = ["--one", size, "--slices", options.slices, "--mixed", options.mixed]
        command = [sys.executable, __file__, *map(str, words)]
        got = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        told = f"{got['peak']:.0f} | {got['before']:.0f} | {got['seconds'] / size * 1e6:.0f}"
        print(f"| {size:,} | {got['series']:,.0f} | {told} |", flush=True)


if __name__ == "__main__":
    main()
