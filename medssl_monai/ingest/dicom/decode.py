"""Decodes stored values of DICOM images: ordinary files from their bytes, all others by pydicom and its plug-ins."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.tag import Tag
from pydicom.uid import UID

from medssl_monai.ingest.dicom.fast_header import asked_for, plain_header
from medssl_monai.ingest.dicom.tags import integer, reading, text
from medssl_monai.store.verdicts import Reason, RejectedError

PLUGINS: dict[str, str] = {
    "1.2.840.10008.1.2.4.50": "python-gdcm",
    "1.2.840.10008.1.2.4.51": "pylibjpeg-libjpeg pylibjpeg",
    "1.2.840.10008.1.2.4.57": "python-gdcm",
    "1.2.840.10008.1.2.4.70": "python-gdcm",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg-openjpeg pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg-openjpeg pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg-openjpeg pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg-openjpeg pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg-openjpeg pylibjpeg",
}
"""Transfer syntax to the Python package that decodes it."""

PIXEL_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("ModalityLUTSequence", "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "SOPClassUID"),
    *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
)
"""What decoding needs; to read the other tags again would take as long."""

_PIXEL_TAGS = [Tag(keyword) for keyword in PIXEL_TAGS]

_PIXEL_FIELDS = asked_for(PIXEL_TAGS)

LITTLE_ENDIAN = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1"})
"""Uncompressed transfer syntaxes, little endian."""

_J2K_START = b"\xff\x4f\xff\x51"
_SIZ_GRID, _SIZ_COMPONENTS = Struct(">4L").unpack_from, Struct(">HB").unpack_from

J2K_SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{end}" for end in (90, 91, 201, 202, 203))
"""JPEG 2000, and High-Throughput JPEG 2000, whose codestreams begin alike."""


class Decoded(NamedTuple):
    """An object with its stored values as decoded; and flags, where these say what its tags do not."""

    dataset: Any
    raw: NDArray[Any]
    flags: frozenset[str] = frozenset()


def plain(content: Path) -> Decoded | None:
    """Header and pixels of an ordinary file, uncompressed (a view of its bytes) or JPEG 2000; None for any other."""
    try:
        data = content.read_bytes()
    except OSError:
        return None
    header = plain_header(data, _PIXEL_FIELDS, whole=True)
    if header is None or header.pixels is None or not _is_one_grey_image(header):
        return None
    start, length = header.pixels
    pixels: bytes | bytearray = data
    if text(header.file_meta, "TransferSyntaxUID") not in LITTLE_ENDIAN:
        decoded = _decoded_j2k(header, data[start : start + length])
        if decoded is None:
            return None
        start, length, pixels = 0, len(decoded), decoded
    shape = integer(header, "Rows") or 0, integer(header, "Columns") or 0
    if not 0 < 2 * shape[0] * shape[1] <= length:
        return None
    kind = "<i2" if integer(header, "PixelRepresentation") else "<u2"
    return Decoded(header, np.frombuffer(pixels, kind, shape[0] * shape[1], start).reshape(shape))


def _decoded_j2k(header: Any, stream: bytes) -> bytearray | None:
    """The pixels of a JPEG 2000 codestream which says of them what the header says; None for anything else."""
    if text(header.file_meta, "TransferSyntaxUID") not in J2K_SYNTAXES or stream[:4] != _J2K_START:
        return None
    if len(stream) < 43:
        return None
    shape, components, bits, signed = _siz(stream)
    agrees = (
        components == 1
        and shape == (integer(header, "Rows"), integer(header, "Columns"))
        and 8 < bits <= 16
        and bits == integer(header, "BitsStored")
        and signed == integer(header, "PixelRepresentation")
    )
    if not agrees:
        return None
    try:
        from openjpeg.utils import decode_pixel_data

        decoded = decode_pixel_data(stream, version=2)
    except Exception:  # it is missing, or the stream is damaged; pydicom finds another decoder, or says what is wrong
        return None
    return decoded if isinstance(decoded, bytearray) else None


def _is_native(dataset: Any) -> bool:
    """Whether it says that it is one uncompressed grey image of 16 bits."""
    return text(dataset.file_meta, "TransferSyntaxUID") in LITTLE_ENDIAN and _is_one_grey_image(dataset)


def _is_one_grey_image(dataset: Any) -> bool:
    return (
        (integer(dataset, "NumberOfFrames") or 1) == 1
        and integer(dataset, "SamplesPerPixel") == 1
        and integer(dataset, "BitsAllocated") == 16
        and integer(dataset, "PixelRepresentation") in (0, 1)
    )


def decode(content: Path) -> Decoded:
    """The whole object, and its pixels as decoded."""
    with reading():
        dataset = pydicom.dcmread(content, force=True, specific_tags=_PIXEL_TAGS)
    if not dataset.file_meta.get("TransferSyntaxUID"):
        dataset.file_meta.TransferSyntaxUID = _implied_syntax(dataset)
    native = _native(dataset)
    if native is not None:
        return Decoded(dataset, native)
    try:
        with reading():
            return _with_right_sign(dataset, _decompressed(dataset))
    except RejectedError as rejection:
        raise RejectedError(Reason.UNDECODABLE, _decoding_remedy(dataset.file_meta.TransferSyntaxUID)) from rejection


def _decompressed(dataset: Any) -> NDArray[Any]:
    """pydicom's `pixel_array`; JPEG 2000 by the fastest plug-in first, since nothing else takes as long."""
    if dataset.file_meta.TransferSyntaxUID in J2K_SYNTAXES and hasattr(dataset, "pixel_array_options"):
        try:
            dataset.pixel_array_options(decoding_plugin="pylibjpeg")
            return np.asarray(dataset.pixel_array)
        except Exception:  # it is missing, or cannot decode this; the others are asked
            dataset.pixel_array_options(decoding_plugin="")
    return np.asarray(dataset.pixel_array)


def _native(dataset: Any) -> NDArray[Any] | None:
    """One uncompressed grey image of 16 bits, a view of its bytes; None for anything else, which pydicom decodes."""
    if not _is_native(dataset):
        return None
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    signed, content = integer(dataset, "PixelRepresentation"), dataset.get("PixelData")
    if not isinstance(content, bytes) or not 0 < 2 * rows * columns <= len(content):
        return None
    return np.frombuffer(content, "<i2" if signed else "<u2", rows * columns).reshape(rows, columns)


@lru_cache(maxsize=2)
def decode_once(content: Path, modified: int, size: int) -> Decoded:
    """As `decode`, kept for two objects (an object and its copy), so that all frames cost one decoding."""
    return decode(content)


def _siz(stream: bytes, start: int = 0) -> tuple[tuple[int, int], int, int, bool]:
    """Rows and columns, components, precision in bits, and whether values have a sign, of a JPEG 2000 codestream.

    ISO/IEC 15444-1 A.5.1: the grid and where the image starts on it, then components, and precision with the sign.
    """
    right, bottom, left, top = _SIZ_GRID(stream, start + 8)
    components, depth = _SIZ_COMPONENTS(stream, start + 40)
    return (bottom - top, right - left), components, (depth & 0x7F) + 1, bool(depth >> 7)


def _with_right_sign(dataset: Any, raw: NDArray[Any]) -> Decoded:
    """Reads values as signed where either PixelRepresentation or the JPEG 2000 codestream says that they are.

    pydicom does that where the codestream says unsigned. The other way round its values have wrapped.
    """
    start = -1
    if text(dataset.file_meta, "TransferSyntaxUID") in J2K_SYNTAXES:
        start = bytes(dataset.PixelData).find(_J2K_START)
    if start < 0 or len(dataset.PixelData) < start + 43:
        return Decoded(dataset, raw)
    *_, bits, signed = _siz(dataset.PixelData, start)
    if signed == (integer(dataset, "PixelRepresentation") == 1):
        return Decoded(dataset, raw)
    if signed:
        half = 1 << (bits - 1)
        raw = ((raw.astype(np.int64) + half) & (2 * half - 1)) - half
        dataset.PixelRepresentation = 1
    return Decoded(dataset, raw, frozenset({"sign_corrected"}))


def _implied_syntax(dataset: Any) -> UID:
    """The uncompressed transfer syntax in which pydicom found the elements (PS3.5 10.1)."""
    implicit, little = getattr(dataset, "original_encoding", (None, None))
    if implicit is None:
        implicit, little = dataset.is_implicit_VR, dataset.is_little_endian
    if implicit:
        return pydicom.uid.ImplicitVRLittleEndian
    return pydicom.uid.ExplicitVRLittleEndian if little else pydicom.uid.ExplicitVRBigEndian


def _decoding_remedy(syntax: str) -> str:
    name = UID(syntax).name
    shown = name if name != syntax else "an unknown transfer syntax"
    plugin = PLUGINS.get(syntax)
    if plugin is None:
        return f"its pixels ({shown}) cannot be decoded: truncated or damaged"
    return f"its pixels ({shown}) cannot be decoded: damaged, or the decoder is missing (pip install {plugin})"
