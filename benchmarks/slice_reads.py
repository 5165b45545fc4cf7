"""Random reads of single slices: from a store, and from what else may hold them.

    python benchmarks/slice_reads.py --samples samples --out DIR [--rounds 5]

`samples` is what `medssl sample-data --out samples` fetched: the real chest CT in it, 133 slices of 512 x 512, is
written as uncompressed DICOM, as JPEG 2000 lossless DICOM, as PNG of 8 bits as the reference system does, and ingested.
Each way then reads the same slices in the same random order, one after another, A B C D A B C D ...; all files are in
the page cache. Also prints the store's size, and what other codecs and filters of blosc2 would give (`--codecs`).
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import cv2
import numpy as np
import pydicom
from ingest_corpus import chest, machine, write_series
from numpy.typing import NDArray

from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.transforms import CTWindow

KEY = b"a key for benchmarks"

Read = Callable[[int], Any]


def hounsfield(path: Path) -> NDArray[np.int16]:
    """What must be done to have a slice in HU from a file."""
    image = pydicom.dcmread(path)
    stored = image.pixel_array.astype(np.int16)
    return stored * np.int16(image.RescaleSlope) + np.int16(image.RescaleIntercept)


def prepare(samples: Path, out: Path) -> tuple[dict[str, Read], float]:
    """Ways to read slice i, and the store's share of the raw bytes."""
    hu = chest(samples)
    for kind in ("uncompressed", "jpeg2000"):
        if not (out / kind).exists():
            write_series(samples, hu, out / kind, 0, kind == "jpeg2000")
    (out / "png").mkdir(exist_ok=True)
    window = CTWindow("minmax")  # as the reference stored it: each slice between its own minimum and maximum
    for number, image in enumerate(hu):
        grey = np.rint(np.asarray(window(image[None]))[0] * 255).astype(np.uint8)
        cv2.imwrite(str(out / "png" / f"{number:04d}.png"), grey)
    if not (out / "store").exists():
        build_store([out / "uncompressed"], out / "store", key=KEY, progress=False)
    store = SliceStore(out / "store")
    (series,) = store.series_ids
    size = (store.path / "series" / f"{series}.b2nd").stat().st_size / hu.nbytes
    plain, packed = (
        sorted((out / kind).iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))
        for kind in ("uncompressed", "jpeg2000")
    )
    ways: dict[str, Read] = {
        "store": lambda i: store.read(series, i),
        "uncompressed DICOM": lambda i: hounsfield(plain[i]),
        "PNG of 8 bits (OpenCV)": lambda i: cv2.imread(str(out / "png" / f"{i:04d}.png"), cv2.IMREAD_UNCHANGED),
        "JPEG 2000 DICOM": lambda i: hounsfield(packed[i]),
    }
    for name in ("store", "uncompressed DICOM", "JPEG 2000 DICOM"):
        assert np.array_equal(ways[name](60), hu[60]), name
    return ways, size


def compare(ways: dict[str, Read], rounds: int, slices: int) -> None:
    """Prints the table; times of a slice, of the clock and of the processor."""
    rng = np.random.default_rng(0)
    clock: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        order = rng.choice(133, slices, replace=False).tolist()
        for name, read in ways.items():
            if name.startswith("JPEG 2000"):
                order = order[: max(4, slices // 10)]
            times = []
            begun = time.process_time()
            for i in order:
                start = time.perf_counter()
                read(i)
                times.append(time.perf_counter() - start)
            processor[name].append((time.process_time() - begun) / len(order))
            clock[name].append(statistics.median(times))
    mine = clock["store"], processor["store"]
    for name in ways:
        ratios = sorted(one / own for one, own in zip(clock[name], mine[0], strict=True))
        work = statistics.median(one / own for one, own in zip(processor[name], mine[1], strict=True))
        print(
            f"  {name:22} {statistics.median(clock[name]) * 1000:7.2f} ms a slice; the store is "
            f"{statistics.median(ratios):6.1f} times as fast ({ratios[0]:.1f} to {ratios[-1]:.1f}), by the "
            f"processor's time {work:.1f}",
            flush=True,
        )


def codecs(hu: NDArray[np.int16], rounds: int) -> None:
    """What a slice costs to write and to read, and its size, under several codecs; bit-shuffled, one thread."""
    choices = {
        "zstd 1": (blosc2.Codec.ZSTD, 1),
        "zstd 5": (blosc2.Codec.ZSTD, 5),
        "lz4 1": (blosc2.Codec.LZ4, 1),
        "lz4 9": (blosc2.Codec.LZ4, 9),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in choices}
    sizes = {}
    some = np.ascontiguousarray(hu[::4])
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, (codec, level) in choices.items():
                path = str(Path(folder) / name)
                parameters = blosc2.CParams(
                    codec=codec, clevel=level, filters=[blosc2.Filter.BITSHUFFLE], typesize=2, nthreads=1
                )
                block = (1, *some.shape[1:])
                one_thread = blosc2.DParams(nthreads=1)
                begun = time.process_time()
                array = blosc2.empty(
                    some.shape, dtype=np.int16, chunks=block, blocks=block, urlpath=path, mode="w", contiguous=True,
                    cparams=parameters, dparams=one_thread,
                )  # fmt: skip
                for i, image in enumerate(some):
                    array.schunk.update_data(i, image, copy=True)
                written = time.process_time() - begun
                opened = blosc2.open(path, mode="r", mmap_mode="r", dparams=one_thread)
                begun = time.process_time()
                for i in range(len(some)):
                    opened[i]
                found[name].append((written / len(some), (time.process_time() - begun) / len(some)))
                sizes[name] = Path(path).stat().st_size / some.nbytes
    for name, times in found.items():
        write, read = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
        print(f"  {name:8} {write:5.2f} ms to write, {read:5.2f} ms to read, {sizes[name]:.3f} of the raw bytes")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=100, help="read a round; of JPEG 2000 a tenth")
    parser.add_argument("--codecs", action="store_true")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(given.out / "store", ignore_errors=True)
    print(machine(), flush=True)
    ways, size = prepare(given.samples, given.out)
    print(f"\nrandom reads, {given.rounds} rounds of {given.slices}; the store takes {size:.3f} of the raw int16 bytes")
    compare(ways, given.rounds, given.slices)
    if given.codecs:
        print("\nbit-shuffled blocks of one slice, processor's time")
        codecs(chest(given.samples), given.rounds)


if __name__ == "__main__":
    main()
