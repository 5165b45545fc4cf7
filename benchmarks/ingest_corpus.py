"""Series of a real chest CT as DICOM files, for the benchmarks of ingestion, and what a run of a program costs.

The CT is sample-1 to sample-6's largest volume (`medssl sample-data`): 133 slices of 512 x 512. Headers are those of a
real scanner's files. Further series are the same images moved sideways, so that no two files are the same.
"""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid

PACKAGES = ("pydicom", "numpy", "blosc2", "opencv-python-headless", "pylibjpeg-openjpeg", "pillow", "python-gdcm")


def chest(samples: Path) -> NDArray[np.int16]:
    """(133, 512, 512) HU, axial; what lies outside the field of view is -1024."""
    volume = np.asarray(nibabel.load(samples / "train" / "sample-2.nii.gz").dataobj)  # type: ignore[attr-defined]
    hu = np.maximum(volume, -1024).astype(np.int16)
    return np.ascontiguousarray(hu.transpose(2, 1, 0)[:, ::-1, ::-1])


def write_series(samples: Path, hu: NDArray[np.int16], folder: Path, number: int, compressed: bool) -> None:
    """One series: a patient of its own, files in the order of their UIDs, uncompressed or JPEG 2000 lossless."""
    folder.mkdir(parents=True)
    headers = sorted(path for path in (samples / "unseen" / "sample-6").iterdir() if path.is_file())
    series_uid = generate_uid(entropy_srcs=[f"series {number} {compressed}"])
    for index, image in enumerate(np.roll(hu, 7 * number, axis=2)):
        made: Any = pydicom.dcmread(headers[index % len(headers)])
        made.SOPInstanceUID = generate_uid(entropy_srcs=[f"image {number} {index} {compressed}"])
        made.SeriesInstanceUID = made.StudyInstanceUID = series_uid
        made.PatientID = f"benchmark {number}"
        made.Rows, made.Columns = image.shape
        made.ImagePositionPatient = [-180, -180, 2.5 * index]
        made.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        made.PixelSpacing, made.SliceThickness, made.InstanceNumber = [0.703125, 0.703125], 2.5, index + 1
        made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 16, 15, 1
        made.RescaleSlope, made.RescaleIntercept = 1, -1024
        made.pop("PixelPaddingValue", None)
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
        made.PixelData = (image.astype(np.int32) + 1024).astype("<i2").tobytes()
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OW", False
        if compressed:
            made.compress(JPEG2000Lossless, generate_instance_uid=False)
        made.save_as(folder / f"{made.SOPInstanceUID}.dcm")


def machine() -> str:
    """Processor, cores, versions."""
    described = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    model = described[0].partition(":")[2].strip() if described else platform.machine()
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    load = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"{model}, {os.cpu_count()} cores, load {load}\nPython {platform.python_version()}, {versions}"


class Cost(NamedTuple):
    """Of a run: seconds by the clock, seconds of processors, and the most memory of all its processes, MiB."""

    wall: float
    processor: float
    memory: float


def run_all(commands: Sequence[Sequence[str]], memory: bool = False) -> Cost:
    """Runs programs side by side, and watches them and their children (Linux).

    Memory is proportional set size, so that shared pages count once; asking for it slows a run down a little.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    running = [
        subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for command in commands
    ]
    sessions = {one.pid for one in running}
    processor: dict[int, float] = {}
    most = 0.0
    while any(one.poll() is None for one in running):
        now = 0.0
        for process in _processes(sessions):
            processor[process] = max(processor.get(process, 0.0), _processor_seconds(process))
            now += _memory(process) if memory else 0.0
        most = max(most, now)
        time.sleep(0.02)
    wall = time.perf_counter() - start
    for one, command in zip(running, commands, strict=True):
        if one.returncode:
            raise SystemExit(f"failed with {one.returncode}: {' '.join(command)}")
    return Cost(wall, sum(processor.values()), most)


def _processes(sessions: set[int]) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if os.getsid(int(folder.name)) in sessions:
                    found.append(int(folder.name))
            except OSError:
                continue
    return found


def _processor_seconds(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
