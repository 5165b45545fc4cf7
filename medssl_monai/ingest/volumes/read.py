"""Reads NIfTI, NRRD and MetaImage files as volumes, without changing a value."""

from __future__ import annotations

import warnings
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medssl_monai.ingest.sources.inflate import inflate_file
from medssl_monai.ingest.sources.paths import NIFTI_SUFFIXES, NRRD_SUFFIXES
from medssl_monai.ingest.volumes.nrrd_metaimage import read_meta_image, read_nrrd
from medssl_monai.ingest.volumes.volume import Volume
from medssl_monai.store.verdicts import Reason, RejectedError

UNITS_MM = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Of NIfTI's xyzt_units, lowest three bits: metre, mm, micron. 0, unknown, is taken for mm."""


def read_volume(path: Path) -> Volume:
    """A file as a volume.

    Raises:
        RejectedError: it cannot be read, has several volumes, or colour.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            name = path.name.lower()
            if name.endswith(NIFTI_SUFFIXES):
                return _read_nifti(path)
            return read_nrrd(path) if name.endswith(NRRD_SUFFIXES) else read_meta_image(path)
    except RejectedError:
        raise
    except Exception as error:  # what broken files raise varies from zlib to memory errors
        raise RejectedError(
            Reason.UNREADABLE, f"is not readable as a volume ({type(error).__name__}): truncated or damaged"
        ) from error


def _read_nifti(path: Path) -> Volume:
    import nibabel

    image: Any = nibabel.load(path)
    shape = _one_volume(image.shape)
    flags = set()
    header = image.header
    unit = int(header["xyzt_units"]) & 7
    if unit and unit not in UNITS_MM:
        raise RejectedError(Reason.UNREADABLE, f"has a unit of length that NIfTI does not know ({unit}); correct it")
    to_mm = np.diag([*[UNITS_MM.get(unit, 1.0)] * 3, 1.0])
    codes = int(header["qform_code"]), int(header["sform_code"])
    if codes == (0, 0):
        flags.add("orientation_assumed")
    elif all(codes) and not _agree(image, to_mm):
        flags.add("qform_sform_differ")
    stored = _stored(path, image)
    if stored.dtype.fields is not None or stored.dtype.kind == "c":
        raise RejectedError(Reason.COLOUR, "has colour or complex voxels; only single grey values are measurements")
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    affine = to_mm @ np.asarray(image.affine, np.float64)
    return Volume(stored.reshape(shape), slope, intercept, affine, frozenset(flags))


def _stored(path: Path, image: Any) -> NDArray[Any]:
    """The stored values; no more memory is taken than the file can fill, and a checksum is checked."""
    import nibabel

    kind, shape, offset = image.header.get_data_dtype(), image.shape, int(image.dataobj.offset)
    with nibabel.openers.ImageOpener(str(path)) as file:  # an image forgets the slope that its header had
        header: Any = type(image.header).from_fileobj(file, check=False)
    # NaN is how nibabel itself writes that there is none.
    if np.isinf([float(header["scl_slope"]), float(header["scl_inter"])]).any():
        raise RejectedError(Reason.UNREADABLE, "has a scl_slope or scl_inter that is no number; correct the header")
    wanted = offset + prod(shape) * kind.itemsize
    if path.name.lower().endswith(".gz"):
        content = inflate_file(path, wanted)
        found = len(content)
    else:
        content, found = None, path.stat().st_size
    if found < wanted:
        raise RejectedError(Reason.UNREADABLE, f"holds {found} of the {wanted} bytes that its header claims: truncated")
    if content is None:
        return np.asarray(image.dataobj.get_unscaled())
    return np.frombuffer(content, kind, prod(shape), offset).reshape(shape, order="F")


def _agree(image: Any, to_mm: NDArray[np.float64]) -> bool:
    """Whether qform and sform are the same, within 0.01 mm; a quaternion that is none agrees with nothing."""
    try:
        return np.allclose(to_mm @ image.get_qform(), to_mm @ image.get_sform(), atol=1e-2)
    except ValueError:
        return False


def _one_volume(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The three lengths of the axes; further axes must be of length 1."""
    lengths = (*shape, 1, 1)[: max(3, len(shape))]
    if len(shape) < 2 or any(length != 1 for length in lengths[3:]):
        raise RejectedError(
            Reason.MULTIVOLUME, f"has {len(shape)} dimensions with several volumes, needs one; split the volumes"
        )
    return tuple(lengths[:3])
