"""Reads NRRD and MetaImage files without native code: what their own libraries make of damaged files ends processes.

Both are a header of text lines and an array whose first axis is the fastest, in the same file or beside it.
Formats: https://teem.sourceforge.net/nrrd/format.html, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.ingest.sources.inflate import inflate
from medssl_monai.ingest.volumes.detached import HEADER_BYTES, lies_beside
from medssl_monai.ingest.volumes.volume import Volume
from medssl_monai.store.verdicts import Reason, RejectedError

_C_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "met_char"), "i1"),
    **dict.fromkeys(("uchar", "unsigned char", "uint8", "uint8_t", "met_uchar"), "u1"),
    **dict.fromkeys(("short", "short int", "signed short", "int16", "int16_t", "met_short"), "i2"),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t", "met_ushort"), "u2"),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "met_int", "met_long"), "i4"),
    **dict.fromkeys(("uint", "unsigned int", "uint32", "uint32_t", "met_uint", "met_ulong"), "u4"),
    **dict.fromkeys(("longlong", "long long", "int64", "int64_t", "met_long_long"), "i8"),
    **dict.fromkeys(("ulonglong", "unsigned long long", "uint64", "uint64_t", "met_ulong_long"), "u8"),
    **dict.fromkeys(("float", "met_float"), "f4"),
    **dict.fromkeys(("double", "met_double"), "f8"),
}

_TEXT = ("ascii", "text", "txt")

_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), 1.0),
    **dict.fromkeys(("um", "µm", "μm", "micron", "microns", "micrometer", "micrometers"), 0.001),
    **dict.fromkeys(("cm", "centimeter", "centimeters"), 10.0),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), 1000.0),
}
"""Names of lengths, and what they are in mm."""

# What turns each space's coordinates into RAS.
_SPACES = {
    **dict.fromkeys(("right-anterior-superior", "ras"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1.0, 1.0, 1.0)),
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1.0, -1.0, 1.0)),
}

# Spaces of the format that are not the patient's.
_OTHER_SPACES = frozenset({"scanner-xyz", "3d-right-handed", "3d-left-handed"})


def read_nrrd(path: Path) -> Volume:
    """An NRRD volume, header and data together (.nrrd) or apart (.nhdr).

    Where its space is not the patient's (scanner-xyz) or not named, LPS is assumed, and flagged.

    Raises:
        RejectedError: it is not readable, holds several volumes, or vectors; its space is not known.
    """
    content = path.read_bytes()
    match = re.search(rb"\r?\n\r?\n", content[:HEADER_BYTES])
    if not content.startswith(b"NRRD") or not (match or path.suffix.lower() == ".nhdr"):
        raise _unreadable("has no NRRD header")
    end, start = (match.start(), match.end()) if match else (len(content), len(content))
    fields = _fields(content[:end], r"([a-z ]+): (.*)")
    sizes = [int(one) for one in fields["sizes"].split()]
    directions = [
        None if one == "none" else [float(x) for x in one.strip("()").split(",")]
        for one in re.findall(r"none|\([^)]*\)", fields.get("space directions", ""))
    ]
    if any(one is None for one in directions):
        raise RejectedError(Reason.COLOUR, "has several components a voxel; only single grey values are measurements")
    unknown = [name for name in ("old min", "old max", "axis mins", "axis maxs") if name in fields]
    if unknown:
        what = f"has the field {unknown[0]!r}, which is not read; write the volume again without it"
        raise RejectedError(Reason.UNREADABLE, what)
    if int(fields.get("dimension", len(sizes))) != len(sizes) or len(directions) not in (0, len(sizes)):
        raise _unreadable("has fields that contradict one another (dimension, sizes, space directions)")
    file = fields.get("data file", fields.get("datafile"))
    body = content[start:] if file is None else _beside(path, file).read_bytes()
    for _ in range(int(fields.get("line skip", fields.get("lineskip", 0)))):
        body = body.partition(b"\n")[2]
    kind = _type(fields["type"])
    order = ">" if fields.get("endian", "little").lower() == "big" else "<"
    skip = int(fields.get("byte skip", fields.get("byteskip", 0)))
    stored = _array(body, sizes, order + kind, fields["encoding"], skip)
    if "endian" not in fields and stored.itemsize > 1 and fields["encoding"].lower() not in _TEXT:
        raise _unreadable("does not say in which order the bytes of a voxel stand (endian)")
    matrix = np.eye(3)
    if directions:
        matrix = np.array(directions, np.float64).T
    elif "spacings" in fields:
        matrix = np.diag([float(x) for x in fields["spacings"].split()][:3])
    origin = [float(x) for x in fields.get("space origin", "(0,0,0)").strip("()").split(",")]
    units = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    matrix = matrix * _to_mm(units)
    origin = [float(x) * _to_mm(units) for x in origin]
    space = fields.get("space", "scanner-xyz").lower()
    if space not in _SPACES and space not in _OTHER_SPACES:
        known = "left-posterior-superior, right-anterior-superior or left-anterior-superior"
        raise RejectedError(Reason.UNREADABLE, f"names a space that is not known; correct it to {known}")
    turn = np.diag(_SPACES.get(space, _SPACES["lps"]))
    flags = frozenset() if space in _SPACES else frozenset({"orientation_assumed"})
    return Volume(stored, 1.0, 0.0, _affine(turn @ matrix, turn @ np.array(origin)), flags)


def read_meta_image(path: Path) -> Volume:
    """A MetaImage volume, header and data together (.mha) or apart (.mhd).

    Raises:
        RejectedError: it is not readable, holds several volumes, or vectors.
    """
    content = path.read_bytes()
    match = re.search(rb"ElementDataFile *= *([^\r\n]*)\r?\n?", content[:HEADER_BYTES])
    if match is None:
        raise _unreadable("has no MetaImage header")
    fields = _fields(content[: match.start()], r"(\w+) *= *(.*)")
    if int(fields.get("elementnumberofchannels", 1)) != 1:
        raise RejectedError(Reason.COLOUR, "has several components a voxel; only single grey values are measurements")
    file = match[1].decode("utf-8").strip()
    body = content[match.end() :] if file.upper() == "LOCAL" else _beside(path, file).read_bytes()
    sizes = [int(one) for one in fields["dimsize"].split()]
    if int(fields.get("ndims", len(sizes))) != len(sizes) or fields.get("objecttype", "Image").lower() != "image":
        raise _unreadable("has fields that contradict one another (ObjectType, NDims, DimSize)")
    big = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "False")).lower() == "true"
    kind = (">" if big else "<") + _type(fields["elementtype"])
    encoding = "zlib" if fields.get("compresseddata", "False").lower() == "true" else "raw"
    if fields.get("binarydata", "True").lower() == "false":
        encoding = "ascii"
    skip = int(fields.get("headersize", 0))
    if encoding == "zlib":  # a header stands before the compressed data
        size = int(fields.get("compresseddatasize", 0))
        body = body[-size:] if skip == -1 and size else body[max(0, skip) :]
        body = body[:size] if size else body
        skip = 0
    stored = _array(body, sizes, kind, encoding, skip)
    turn = np.diag(_SPACES["lps"])
    spacing = [float(x) for x in fields.get("elementspacing", fields.get("elementsize", "1 1 1")).split()]
    cosines = next((fields[name] for name in ("transformmatrix", "rotation", "orientation") if name in fields), None)
    count = len(sizes)
    matrix = np.eye(count) if cosines is None else np.reshape([float(x) for x in cosines.split()], (count, count)).T
    origin = next((fields[name] for name in ("offset", "position", "origin") if name in fields), "0 0 0 0")
    axes, place = np.eye(3), np.zeros(3)
    used = min(count, 3)
    axes[:used, :used] = matrix[:used, :used] * np.array(spacing)[:used]
    place[:used] = [float(x) for x in origin.split()][:used]
    to_mm = _to_mm([fields.get("distanceunits", "mm")])
    slope = float(fields.get("elementtointensityfunctionslope", 1))
    offset = float(fields.get("elementtointensityfunctionoffset", 0))
    return Volume(stored, slope, offset, _affine(to_mm * turn @ axes, to_mm * turn @ place))


def _fields(header: bytes, pattern: str) -> dict[str, str]:
    """Keys in lower case; comments and NRRD's key/value pairs are left out."""
    lines = header.decode("utf-8", "replace").splitlines()
    matches = (re.fullmatch(pattern, line.strip(), re.IGNORECASE) for line in lines if not line.startswith("#"))
    return {match[1].strip().lower(): match[2].strip() for match in matches if match}


def _type(name: str) -> str:
    try:
        return _C_TYPES[name.lower()]
    except KeyError as error:
        raise _unreadable("has voxels of a type that is no number") from error


def _beside(path: Path, name: str) -> Path:
    """The file that holds the data; nothing outside the header's folder is opened."""
    if "\\" in name or re.match("[A-Za-z]:", name):
        raise RejectedError(
            Reason.UNREADABLE, "names its data by a path of Windows; write the name alone, and put the file beside it"
        )
    if not lies_beside(name):
        raise _unreadable("names data in several files or in another folder; join them into one file")
    return path.parent / name


def _to_mm(units: list[str]) -> float:
    """What turns lengths into mm; 1 where no unit is named.

    Raises:
        RejectedError: the axes have several units, or one that is no length.
    """
    named = {unit.strip().lower() for unit in units if unit.strip()}
    try:
        (factor,) = {_UNITS[unit] for unit in named or {"mm"}}
    except (KeyError, ValueError) as error:
        raise _unreadable("has units of space that are not known, or several; write it in mm") from error
    return factor


def _array(body: bytes, sizes: list[int], kind: str, encoding: str, skip: int = 0) -> NDArray[Any]:
    """The voxels as (x, y, z); never more memory than the header's sizes ask for and the file can fill.

    Args:
        body: the data.
        sizes: of the axes, the fastest first.
        kind: type of a voxel, as NumPy writes it.
        encoding: as NRRD names them, or "zlib".
        skip: bytes before the voxels, once the data are unpacked; -1 where the voxels are the last bytes.
    """
    if not sizes or min(sizes) < 1:
        raise _unreadable("has an axis without voxels")
    lengths = [*sizes, 1, 1][: max(3, len(sizes))]
    if any(length != 1 for length in lengths[3:]) or len(sizes) < 2:
        raise RejectedError(Reason.MULTIVOLUME, f"has {len(sizes)} dimensions, needs 3; split the volumes")
    wanted = prod(sizes) * np.dtype(kind).itemsize
    encoding = encoding.lower()
    if skip < -1 or (skip == -1 and encoding != "raw"):
        raise _unreadable(f"skips {skip} bytes, which has no meaning here")
    if encoding in ("gzip", "gz", "zlib", "bzip2", "bz2"):
        body = inflate(body, skip + wanted, "bzip2" if encoding.startswith("b") else "gzip")
    elif encoding in _TEXT:
        body = np.array(body.split()[: prod(sizes)], np.float64).astype(kind).tobytes()
    elif encoding != "raw":
        raise _unreadable("has an unknown encoding")
    start = len(body) - wanted if skip == -1 else skip
    if start < 0 or len(body) - start < wanted:
        raise _unreadable(f"holds {max(0, len(body) - max(0, skip))} of {wanted} bytes of voxels")
    voxels = np.frombuffer(body, kind, prod(sizes), start).reshape(lengths[:3], order="F")
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def _affine(axes: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return affine


def _unreadable(what: str) -> RejectedError:
    return RejectedError(Reason.UNREADABLE, f"{what}: truncated or damaged, or another kind of file")
