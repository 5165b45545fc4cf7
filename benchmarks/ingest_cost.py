"""What ingestion costs, beside the reference system's loop: pydicom, then a PNG of 8 bits a slice.

    python benchmarks/ingest_cost.py --samples samples --out DIR [--series 8] [--rounds 3]

`samples` is what `medssl sample-data --out samples` fetched. Whole commands are timed, A B C A B C ..., start included:

    ingest    `medssl ingest --workers 2`: every column of the index computed, store finished
    loop      the plain loop, one process: each folder read with pydicom, sorted, each slice between its own minimum and
              maximum written as PNG with OpenCV
    loop x 2  two such processes, each with half the folders
    loop, one thread  JPEG 2000 only: the loop with pylibjpeg's decoder, which uses one thread; pydicom's first choice,
              GDCM, uses one for each core

on uncompressed series and on JPEG 2000 lossless ones, then the memory of ingestion with N and 10 N small series.
"""

import argparse
import os
import shutil
import statistics
import sys
from pathlib import Path

import cv2
import numpy as np
import pydicom
from ingest_corpus import Cost, chest, machine, run_all, write_series


def loop(folders: list[Path], out: Path, decoder: str = "") -> None:
    """As the reference's LIDC script does, written from its description; `decoder` is a plug-in of pydicom."""
    written = 0
    out.mkdir(parents=True, exist_ok=True)
    for folder in folders:
        slices = [pydicom.dcmread(path) for path in folder.iterdir()]
        slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
        for one in slices if decoder else ():
            one.pixel_array_options(decoding_plugin=decoder)
        image = np.stack([one.pixel_array for one in slices]).astype(np.int16)
        image[image == -2000] = 0
        for number, one in enumerate(slices):
            if one.RescaleSlope != 1:
                image[number] = (float(one.RescaleSlope) * image[number].astype(np.float64)).astype(np.int16)
            image[number] += np.int16(one.RescaleIntercept)
        for hu in image:
            lowest, highest = int(hu.min()), int(hu.max())
            mapped = (hu.astype(np.float64) - lowest) * (255 / (highest - lowest))
            cv2.imwrite(str(out / f"{written}.png"), np.rint(mapped).astype(np.uint8))
            written += 1


def compare(name: str, folder: Path, scratch: Path, rounds: int) -> None:
    """Prints one table."""
    series = sorted(folder.iterdir())
    files = sum(len(list(one.iterdir())) for one in series)
    me = [sys.executable, __file__, "--loop", str(scratch / "png")]
    ingest = ["-m", "medssl_monai", "ingest", str(folder), "--out", str(scratch / "store"), "--workers", "2"]
    ways = {
        "ingest": [[sys.executable, *ingest, "--no-report"]],
        "loop": [[*me, *map(str, series)]],
        "loop x 2": [[*me, *map(str, series[half::2])] for half in (0, 1)],
    }
    if name == "jpeg2000":
        ways["loop, one thread"] = [[*me, "--decoder", "pylibjpeg", *map(str, series)]]
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, commands in ways.items():
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            costs[way].append(run_all(commands))
    print(f"\n{name}: {files} files in {len(series)} series, {rounds} rounds", flush=True)
    for way, found in costs.items():
        walls = sorted(one.wall for one in found)
        ratios = sorted(one.wall / mine.wall for one, mine in zip(found, costs["ingest"], strict=True))
        work = statistics.median(one.processor for one in found)
        print(
            f"  {way:16} {files / statistics.median(walls):7.0f} files/s ({files / walls[-1]:.0f} to "
            f"{files / walls[0]:.0f}), {work / files * 1000:6.2f} ms of processor a file, "
            f"ingest is {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            flush=True,
        )


def memory(samples: Path, out: Path, scratch: Path, few: int) -> None:
    """Prints the peak for some series and for ten times as many, with one process and with two."""
    small = chest(samples)[:100, ::16, ::16]
    for count in (few, 10 * few):
        for number in range(count):
            if not (out / str(count) / str(number)).exists():
                write_series(samples, small, out / str(count) / str(number), number, False)
    for workers in (1, 2):
        peaks = []
        for count in (few, 10 * few):
            shutil.rmtree(scratch, ignore_errors=True)
            command = ["-m", "medssl_monai", "ingest", str(out / str(count)), "--out", str(scratch / "store")]
            options = ["--workers", str(workers)]
            peaks.append(run_all([[sys.executable, *command, *options]], memory=True).memory)
        print(
            f"  {workers} worker{'s' * (workers > 1)}: {few} series {peaks[0]:.0f} MiB, {10 * few} series "
            f"{peaks[1]:.0f} MiB, {peaks[1] / peaks[0] - 1:+.1%}",
            flush=True,
        )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--series", type=int, default=8, help="uncompressed series; a quarter as many are compressed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["uncompressed", "jpeg2000", "memory"])
    parser.add_argument("--loop", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--decoder", default="", help=argparse.SUPPRESS)
    parser.add_argument("folders", type=Path, nargs="*", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop is not None:
        loop(given.folders, given.loop / str(os.getpid()), given.decoder)
        return
    os.environ["MEDSSL_KEY"] = "a key for benchmarks"
    print(machine(), flush=True)
    counts = {"uncompressed": given.series, "jpeg2000": max(2, given.series // 4)}
    hu = chest(given.samples)
    for kind, count in counts.items():
        for number in range(count):
            if given.only in (None, kind) and not (given.out / kind / str(number)).exists():
                write_series(given.samples, hu, given.out / kind / str(number), number, kind == "jpeg2000")
    for kind in counts:
        if given.only in (None, kind):
            compare(kind, given.out / kind, given.out / "scratch", given.rounds)
    if given.only in (None, "memory"):
        print("\nmemory of all processes, at most (series of 100 slices of 32 x 32)")
        memory(given.samples, given.out / "small", given.out / "scratch", 10)


if __name__ == "__main__":
    main()
