"""Reads NIfTI, NRRD and MetaImage files as volumes, without changing a value."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.ingest.nrrd_meta import read_meta_image, read_nrrd
from medssl_monai.ingest.verdicts import Reason, RejectedError
from medssl_monai.ingest.volumes import Volume

__all__ = ["NIFTI_SUFFIXES", "VOLUME_SUFFIXES", "is_volume_file", "read_volume"]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
NRRD_SUFFIXES = (".nrrd", ".nhdr")
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *NRRD_SUFFIXES, ".mha", ".mhd")


def is_volume_file(path: Path) -> bool:
    """Whether the name is that of a volume format."""
    return path.name.lower().endswith(VOLUME_SUFFIXES)


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
    codes = int(header["qform_code"]), int(header["sform_code"])
    if codes == (0, 0):
        flags.add("orientation_assumed")
    elif all(codes) and not np.allclose(image.get_qform(), image.get_sform(), atol=1e-2):
        flags.add("qform_sform_differ")
    stored = np.asarray(image.dataobj.get_unscaled())
    if stored.dtype.fields is not None or stored.dtype.kind == "c":
        raise RejectedError(Reason.COLOUR, "has colour or complex voxels; only single grey values are measurements")
    slope, intercept = float(image.dataobj.slope), float(image.dataobj.inter)
    affine = np.asarray(image.affine, np.float64)
    return Volume(stored.reshape(shape), slope, intercept, affine, frozenset(flags))


def _one_volume(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The three lengths of the axes; further axes must be of length 1."""
    lengths = (*shape, 1, 1)[: max(3, len(shape))]
    if len(shape) < 2 or any(length != 1 for length in lengths[3:]):
        raise RejectedError(
            Reason.MULTIVOLUME, f"has {len(shape)} dimensions with several volumes, needs one; split the volumes"
        )
    return tuple(lengths[:3])
