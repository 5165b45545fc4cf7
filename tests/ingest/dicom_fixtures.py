"""Writes DICOM files as scanners do, one tag at a time different where a test asks for it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import ArrayLike, NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
KEY = b"a key for tests, 16 bytes or more"


def uid(*words: object) -> str:
    """The same words give the same UID."""
    return str(generate_uid(entropy_srcs=[repr(word) for word in words]))


def phantom(slices: int = 6, height: int = 20, width: int = 16, seed: int = 0) -> NDArray[np.int16]:
    """(slices, H, W) HU without any symmetry, from -1020 to 1300, body in air."""
    rng = np.random.default_rng(seed)
    volume = np.full((slices, height, width), -1000)
    volume[:, 3:-3, 2:-4] = 40
    volume += rng.integers(-20, 20, volume.shape)
    for number in range(slices):
        volume[number, 4 + number % 5, 3:6] = 700 + 100 * number
    return volume.astype(np.int16)


def anatomy(seed: int, slices: int = 12) -> NDArray[np.int16]:
    """(slices, 64, 64) HU: a patient of smooth organs, unlike that of another seed."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(np.linspace(0, 1, slices), np.linspace(-1, 1, 64), np.linspace(-1, 1, 64), indexing="ij")
    hu = np.where(x**2 + (y * 1.3) ** 2 < 0.9, 40.0, -1000.0)
    for _ in range(25):
        cz, cy, cx, size = rng.uniform(0, 1), *rng.uniform(-0.6, 0.6, 2), rng.uniform(0.1, 0.3)
        inside = ((x - cx) ** 2 + (y - cy) ** 2) / size**2 + ((z - cz) / 1.5) ** 2 < 1
        hu[inside] = rng.choice([-850, -100, 150, 400, 900])
    return hu.astype(np.int16)


def dataset(
    pixels: NDArray[Any],
    *,
    position: ArrayLike | None = (0.0, 0.0, 0.0),
    orientation: Sequence[float] | None = AXIAL,
    series: str = "one",
    name: object = 0,
    number: int | None = 1,
    slope: float | None = 1.0,
    intercept: float | None = -1024.0,
    spacing: Sequence[float] | None = (0.7, 0.9),
    **tags: Any,
) -> FileDataset:
    """One image; `pixels` are stored values. A tag given as None is left out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = tags.get("SOPClassUID") or CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(uid(series, name))
    image = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    signed = pixels.dtype.kind == "i"
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": uid(series, name),
        "StudyInstanceUID": uid("study"),
        "SeriesInstanceUID": uid(series),
        "FrameOfReferenceUID": uid("frame"),
        "PatientName": "Plantedname^Erika",
        "PatientID": "PLANTED-ID-4711",
        "PatientBirthDate": "19640812",
        "StudyDate": "20191229",
        "AccessionNumber": "PLANTEDACC",
        "InstitutionName": "Planted Hospital",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": number,
        "ImagePositionPatient": None if position is None else np.asarray(position).round(6).tolist(),
        "ImageOrientationPatient": None if orientation is None else [float(x) for x in orientation],
        "PixelSpacing": None if spacing is None else list(spacing),
        "SliceThickness": 2.5,
        "RescaleSlope": slope,
        "RescaleIntercept": intercept,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(signed),
        "BodyPartExamined": "CHEST",
        "ConvolutionKernel": "B30f",
        **tags,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(image, keyword, value)
    image.PixelData = pixels.astype("<i2" if signed else "<u2").tobytes()
    return image


def write(image: FileDataset, path: Path) -> Path:
    """Writes a file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if int(pydicom.__version__.split(".")[0]) >= 3:
            image.save_as(buffer, enforce_file_format=True)
        else:
            image.is_little_endian, image.is_implicit_VR = True, False
            image.save_as(buffer, write_like_original=False)
    path.write_bytes(buffer.getvalue())
    return path


def axial_positions(count: int, step: float = 2.5) -> list[list[float]]:
    """Positions of slices from inferior to superior."""
    return [[-120.0, -90.0, 35.0 + i * step] for i in range(count)]


def write_series(
    folder: Path,
    hu: NDArray[np.int16],
    *,
    positions: Sequence[Sequence[float]] | None = None,
    names: Sequence[str] | None = None,
    series: str = "one",
    **tags: Any,
) -> list[Path]:
    """An axial series of HU slices, inferior first; stored unsigned with intercept -1024."""
    positions = axial_positions(len(hu)) if positions is None else positions
    names = [f"{i:03d}.dcm" for i in range(len(hu))] if names is None else names
    stored = (hu.astype(np.int32) + 1024).astype(np.uint16)
    return [
        write(
            dataset(stored[i], position=positions[i], series=series, name=i, **{"number": len(hu) - i, **tags}),
            folder / names[i],
        )
        for i in range(len(hu))
    ]


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
