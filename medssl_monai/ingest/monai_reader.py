"""A MONAI image reader for DICOM, NIfTI, NRRD and MetaImage through SimpleITK.

MONAI's own ITKReader needs the large `itk` package, and its PydicomReader orders slices by InstanceNumber and averages
gaps away. Here slices of a folder are ordered by position, and a folder that is not one regular volume is refused.

Axes: arrays are (x, y, z), or (x, y, z, channel); affines are RAS, in mm, as MONAI's NibabelReader gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  its users' custom
from monai.config.type_definitions import PathLike
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from monai.utils.misc import ensure_tuple
from numpy.typing import NDArray

from medssl_monai.errors import GeometryError, InputError, NoImagesError
from medssl_monai.ingest.dicom.header import read_instance, sniff_dicom
from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.ingest.dicom.plan import STACK_FLAGS, DicomPlan, plan_series, series_uid
from medssl_monai.ingest.geometry import LPS_TO_RAS
from medssl_monai.ingest.sources.paths import is_volume_file
from medssl_monai.store.verdicts import RejectedError


class SimpleITKReader(ImageReader):
    """Reads volumes for `monai.transforms.LoadImage`.

    Examples:
        >>> LoadImage(SimpleITKReader, image_only=True, ensure_channel_first=True)("series_folder")  # doctest: +SKIP

    Args:
        series_uid: which series of a folder to read; not needed where there is one.
        allow_irregular: read also series with gaps, changing spacing or slices that are shifted within their plane,
            whose affine holds on average only.
    """

    def __init__(self, series_uid: str | None = None, allow_irregular: bool = False) -> None:
        super().__init__()
        self.series_uid, self.allow_irregular = series_uid, allow_irregular

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether these are folders, volume files, or DICOM by content."""
        return all(_is_readable(Path(name)) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """An image, or a list of them to be stacked as channels.

        Raises:
            NoImagesError: a folder holds no DICOM image.
            GeometryError: a folder's slices do not form one regular volume.
            InputError: a folder holds several series, or a file cannot be read.
        """
        images = [self._read_one(Path(name)) for name in ensure_tuple(data)]
        return images if len(images) > 1 else images[0]

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Array and metadata: `affine` and `original_affine` (4, 4) RAS, `spatial_shape`, `spacing` mm, `space`.

        Raises:
            GeometryError: images to be stacked as channels lie differently.
        """
        images = list(img) if isinstance(img, (list, tuple)) else [img]
        arrays = [_array(image) for image in images]
        affines = [_ras_affine(image) for image in images]
        for affine, array in zip(affines[1:], arrays[1:], strict=True):
            if array.shape != arrays[0].shape or not np.allclose(affine, affines[0], atol=1e-3):
                raise GeometryError("images to be stacked as channels: shape or affine differ; resample them first")
        first = images[0]
        has_channels = arrays[0].ndim > 3
        channel_dim: float = 0 if len(arrays) > 1 else (-1 if has_channels else math.nan)
        metadata = {
            MetaKeys.AFFINE: affines[0],
            MetaKeys.ORIGINAL_AFFINE: affines[0].copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(arrays[0].shape[:3]),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
            "spacing": np.asarray(first.GetSpacing()[:3]),
        }
        return arrays[0] if len(arrays) == 1 else np.stack(arrays), {str(k): v for k, v in metadata.items()}

    def _read_one(self, path: Path) -> Any:
        if path.is_dir():
            return _read_series(self._plan(path))
        try:
            return sitk.ReadImage(str(path))
        except RuntimeError as error:
            raise InputError(
                f"{path}: SimpleITK cannot read it; name a DICOM, NIfTI, NRRD or MetaImage file, or a folder with a "
                "DICOM series"
            ) from error

    def _plan(self, folder: Path) -> DicomPlan:
        """The one series of a folder, sorted."""
        instances = [instance for path in sorted(folder.iterdir()) if (instance := _instance(path)) is not None]
        if self.series_uid is not None:
            instances = [instance for instance in instances if instance.series_uid == self.series_uid]
        if not instances:
            wanted = "no DICOM image" if self.series_uid is None else f"no image of series {self.series_uid}"
            raise NoImagesError(f"{folder}: holds {wanted}; name the folder in which the files of the series lie")
        count = len({series_uid(instance) for instance in instances})
        if count > 1:
            raise InputError(
                f"{folder}: holds {count} DICOM series, needs one; give each a folder of its own, or pass series_uid"
            )
        # The key stands for nothing here: no pseudonym leaves this function.
        plans, tangled = plan_series(instances, b"\0" * 16)
        if len(plans) != 1 or tangled:
            raise GeometryError(
                f"{folder}: its series is {len(plans) + len(tangled)} stacks by geometry or acquisition, needs one; "
                "part the files"
            )
        plan = plans[0]
        irregular = plan.flags & STACK_FLAGS
        if irregular and not self.allow_irregular:
            raise GeometryError(
                f"{folder}: its slices form no regular volume ({', '.join(sorted(irregular)).replace('_', ' ')}); "
                "complete the series, or pass allow_irregular=True if an average affine is good enough"
            )
        return plan


def _read_series(plan: DicomPlan) -> Any:
    """The slices as one image whose third axis runs from the first slice to the last.

    Each file is read by itself, so that each is rescaled by its own slope and intercept.
    """
    slices: list[Any] = [sitk.ReadImage(str(instance.path)) for instance in plan.instances]
    first_slice = slices[0]
    image: Any = sitk.GetImageFromArray(np.concatenate([sitk.GetArrayFromImage(one) for one in slices]))
    image.SetOrigin(first_slice.GetOrigin())
    image.SetDirection(first_slice.GetDirection())
    image.SetSpacing(first_slice.GetSpacing())
    first, last = plan.instances[0], plan.instances[-1]
    if first.position is not None and last.position is not None and len(slices) > 1:
        step = (np.asarray(last.position) - np.asarray(first.position)) / (len(slices) - 1)
        image.SetSpacing([*image.GetSpacing()[:2], float(np.linalg.norm(step))])
        # ITK's directions are orthonormal: a tilted gantry's step is kept beside them.
        image.SetMetaData(_STEP, " ".join(repr(float(value)) for value in step))
    return image


_STEP = "medssl_slice_step_mm"


def _array(image: Any) -> NDArray[Any]:
    """(x, y, z) or (x, y, z, channel); an image of two dimensions gets a third of length one."""
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    spatial = image.GetDimension()
    array = array.transpose(*reversed(range(spatial)), *range(spatial, array.ndim))
    return array[:, :, None] if spatial == 2 else array


def _ras_affine(image: Any) -> NDArray[np.float64]:
    """Voxel index to RAS mm. ITK's patient space is LPS."""
    dimension = image.GetDimension()
    direction = np.eye(3)
    used = min(dimension, 3)
    direction[:used, :used] = np.reshape(image.GetDirection(), (dimension, dimension))[:used, :used]
    spacing = np.ones(3)
    spacing[:used] = image.GetSpacing()[:used]
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:used, 3] = image.GetOrigin()[:used]
    if image.HasMetaDataKey(_STEP) and image.GetMetaData(_STEP):
        affine[:3, 2] = [float(value) for value in image.GetMetaData(_STEP).split()]
    return np.asarray(LPS_TO_RAS @ affine + 0.0)


def _is_readable(path: Path) -> bool:
    return path.is_dir() or is_volume_file(path) or path.suffix.lower() == ".dcm" or _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return sniff_dicom(file.read(132))


def _instance(path: Path) -> Instance | None:
    """The header of a DICOM image; None for localizers and for whatever else lies in a folder."""
    if not _is_dicom(path):
        return None
    try:
        instance = read_instance(path)
    except RejectedError:
        return None
    return None if "LOCALIZER" in instance.image_type else instance
