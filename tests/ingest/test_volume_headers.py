"""Every field of an NRRD, MetaImage or NIfTI header that moves or scales data is honoured, or the file refused."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medssl_monai.ingest.volumes.read import read_volume
from medssl_monai.store.verdicts import RejectedError
from tests.ingest.dicom_fixtures import phantom

DATA = phantom(3).astype("<i2").tobytes()
SIZES = "16 20 3"

NRRD = {"type": "short", "dimension": "3", "sizes": SIZES, "endian": "little", "encoding": "raw"}


def nrrd(path: Path, body: bytes, **fields: str) -> Path:
    given = {**NRRD, **{name.replace("_", " "): value for name, value in fields.items()}}
    lines = "\n".join(f"{name}: {value}" for name, value in given.items() if value)
    path.write_bytes(f"NRRD0004\n{lines}\n\n".encode() + body)
    return path


def meta(path: Path, body: bytes, **fields: str) -> Path:
    given = {"ObjectType": "Image", "NDims": "3", "DimSize": SIZES, "ElementType": "MET_SHORT", **fields}
    given = {name: value for name, value in given.items() if value} | {"ElementDataFile": "LOCAL"}
    path.write_bytes("".join(f"{name} = {value}\n" for name, value in given.items()).encode() + body)
    return path


def values(path: Path) -> np.ndarray:
    volume = read_volume(path)
    return (volume.stored * volume.slope + volume.intercept).transpose(2, 1, 0)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"0123456" + DATA, {"byte_skip": "7"}),
        (b"0123456" + DATA, {"byte_skip": "-1"}),
        (b"one\ntwo\n" + DATA, {"line_skip": "2"}),
        (b"one\n0123" + DATA, {"line_skip": "1", "byte_skip": "4"}),
        (gzip.compress(b"0123456" + DATA), {"encoding": "gzip", "byte_skip": "7"}),
        (b"one\n" + gzip.compress(DATA), {"encoding": "gzip", "line_skip": "1"}),
        (b"one\n" + bz2.compress(b"0123" + DATA), {"encoding": "bzip2", "line_skip": "1", "byte_skip": "4"}),
        (phantom(3).astype(">i2").tobytes(), {"endian": "big"}),
        (phantom(3).astype("u1").tobytes(), {"type": "uint8", "endian": ""}),
        (" ".join(map(str, phantom(3).reshape(-1))).encode(), {"encoding": "ascii", "endian": ""}),
    ],
)
def test_where_the_data_of_an_nrrd_stand(tmp_path: Path, body: bytes, fields: dict[str, str]) -> None:
    expected = phantom(3).astype("u1") if fields.get("type") == "uint8" else phantom(3)
    assert np.array_equal(values(nrrd(tmp_path / "a.nrrd", body, **fields)), expected)


@pytest.mark.parametrize(
    "fields",
    [
        {"endian": ""},
        {"byte_skip": "-2"},
        {"byte_skip": "-1", "encoding": "gzip"},
        {"old_min": "-1024", "old_max": "3071"},
        {"axis_mins": "10 20 30"},
        {"dimension": "4"},
        {"space": "left-posterior-superior", "space_directions": "(1,0,0) (0,1,0)"},
        {"spacings": "1 1 1", "units": '"furlong" "furlong" "furlong"'},
        {"spacings": "1 1 1", "units": '"mm" "mm" "cm"'},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_nrrd_that_is_refused(tmp_path: Path, fields: dict[str, str]) -> None:
    body = gzip.compress(DATA) if "encoding" in fields else DATA
    with pytest.raises(RejectedError):
        read_volume(nrrd(tmp_path / "a.nrrd", body, **fields))


UNITS = {"mm": 1.0, "cm": 10.0, "um": 0.001, "m": 1000.0}


@pytest.mark.parametrize(("unit", "factor"), UNITS.items())
def test_units_of_length(tmp_path: Path, unit: str, factor: float) -> None:
    space = {"space": "left-posterior-superior", "space_origin": "(1,2,3)"}
    space |= {"space_directions": "(2,0,0) (0,3,0) (0,0,4)", "space_units": " ".join([f'"{unit}"'] * 3)}
    paths = [nrrd(tmp_path / "a.nrrd", DATA, **space)]
    if unit != "m":
        paths.append(meta(tmp_path / "a.mha", DATA, ElementSpacing="2 3 4", Offset="1 2 3", DistanceUnits=unit))
    for path in paths:
        expected = np.array([[-2, 0, 0, -1], [0, -3, 0, -2], [0, 0, 4, 3]]) * factor
        assert np.allclose(read_volume(path).affine[:3], expected)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (zlib.compress(DATA), {"CompressedData": "True"}),
        (
            zlib.compress(DATA) + b"more",
            {"CompressedData": "True", "CompressedDataSize": str(len(zlib.compress(DATA)))},
        ),
        (b"head" + DATA, {"HeaderSize": "4"}),
        (b"head" + DATA, {"HeaderSize": "-1"}),
        (b"head" + zlib.compress(DATA), {"CompressedData": "True", "HeaderSize": "4"}),
        (
            b"head" + zlib.compress(DATA),
            {"CompressedData": "True", "HeaderSize": "-1", "CompressedDataSize": str(len(zlib.compress(DATA)))},
        ),
        (phantom(3).astype(">i2").tobytes(), {"BinaryDataByteOrderMSB": "True"}),
        (" ".join(map(str, phantom(3).reshape(-1))).encode(), {"BinaryData": "False"}),
    ],
)
def test_where_the_data_of_a_meta_image_stand(tmp_path: Path, body: bytes, fields: dict[str, str]) -> None:
    assert np.array_equal(values(meta(tmp_path / "a.mha", body, **fields)), phantom(3))


def test_the_scale_of_a_meta_image(tmp_path: Path) -> None:
    stored = ((phantom(3).astype(int) + 1024) * 2).astype("<i2").tobytes()
    scale = {"ElementToIntensityFunctionSlope": "0.5", "ElementToIntensityFunctionOffset": "-1024"}
    assert np.array_equal(values(meta(tmp_path / "a.mha", stored, **scale)), phantom(3))


@pytest.mark.parametrize("fields", [{"NDims": "4"}, {"ObjectType": "Tube"}, {"DistanceUnits": "furlong"}])
def test_meta_images_that_are_refused(tmp_path: Path, fields: dict[str, str]) -> None:
    with pytest.raises(RejectedError):
        read_volume(meta(tmp_path / "a.mha", DATA, **fields))


@pytest.mark.parametrize("name", [r"C:\ct\ct.raw", r"data\ct.raw", "D:ct.raw"])
def test_data_named_by_a_path_of_windows(tmp_path: Path, name: str) -> None:
    path = meta(tmp_path / "a.mhd", b"")
    path.write_text(path.read_text().replace("LOCAL", name))
    with pytest.raises(RejectedError, match="a path of Windows; write the name alone"):
        read_volume(path)


def nifti(path: Path, **fields: Any) -> Path:
    library: Any = nibabel
    image = library.Nifti1Image(phantom(3).transpose(2, 1, 0), np.diag([-0.9, -0.7, 2.5, 1]))
    content = bytearray(image.to_bytes())
    header = np.frombuffer(content, image.header.template_dtype, 1).copy()
    for name, value in fields.items():
        header[name] = value
    content[: header.nbytes] = header.tobytes()
    path.write_bytes(bytes(content))
    return path


@pytest.mark.parametrize("fields", [{"xyzt_units": 6}, {"scl_slope": np.inf}, {"scl_slope": 2, "scl_inter": np.nan}])
def test_nifti_that_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(RejectedError):
        read_volume(nifti(tmp_path / "a.nii", **fields))


def test_nifti_whose_voxels_stand_further_on(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", vox_offset=400)
    content = path.read_bytes()
    path.write_bytes(content[:352] + bytes(48) + content[352:])
    assert np.array_equal(values(path), phantom(3))
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(values(tmp_path / "b.nii.gz"), phantom(3))
