"""A MONAI image reader for DICOM, NIfTI, NRRD and MetaImage that gives what ingestion gives.

Files are grouped, ordered, rescaled and refused by the code of `medssl ingest`: slices by position, each frame by its
own rescale, CT in HU; and a folder that is not one regular volume is refused. MONAI's own PydicomReader orders slices
by InstanceNumber and averages gaps away. What is neither DICOM nor a single volume (pictures, several channels) is read
by SimpleITK.

Axes: arrays are (x, y, z), or (x, y, z, channel); affines are RAS, in mm, as MONAI's NibabelReader gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import monai.data
import numpy as np
import SimpleITK as sitk  # noqa: N813  its users' custom
from monai.config.type_definitions import PathLike
from monai.data.image_reader import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from monai.utils.misc import ensure_tuple
from numpy.typing import NDArray

from medssl_monai.errors import GeometryError, InputError, NoImagesError
from medssl_monai.ingest.dicom.admission import Rules, refusal
from medssl_monai.ingest.dicom.header import read_frames, sniff_dicom
from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.ingest.dicom.pixels import read_pixels
from medssl_monai.ingest.dicom.plan import STACK_FLAGS, DicomPlan, plan_series, series_uid
from medssl_monai.ingest.geometry import LPS_TO_RAS
from medssl_monai.ingest.hounsfield import joined, not_hounsfield, rescale
from medssl_monai.ingest.sources.paths import is_volume_file
from medssl_monai.ingest.volumes.read import read_volume
from medssl_monai.store.verdicts import Reason, RejectedError


class ReadVolume(NamedTuple):
    """A volume as read: (x, y, z) or (x, y, z, channel), and its affine, (4, 4) RAS mm."""

    array: NDArray[Any]
    affine: NDArray[np.float64]


class SimpleITKReader(ImageReader):
    """Reads volumes for `monai.transforms.LoadImage`.

    Where `LoadImage` passes several readers or one by its class, it takes the next reader if `read` raises, and MONAI's
    own would read what is refused here. Called as `LoadImage` calls it, with a tuple of names, `read` therefore gives
    the refusal to `get_data`, which raises it.

    Examples:
        >>> LoadImage(SimpleITKReader, image_only=True, ensure_channel_first=True)("series_folder")  # doctest: +SKIP
        >>> LoadImage("SimpleITKReader")("ct.nrrd")  # once this module is imported              # doctest: +SKIP

    Args:
        series_uid: which series of a folder to read; not needed where there is one.
        allow_irregular: read also series with gaps, changing spacing or slices that are shifted within their plane,
            whose affine holds on average only.
        assume_hu: read also CT whose rescale tags are missing, or whose values cannot be HU.
    """

    def __init__(self, series_uid: str | None = None, allow_irregular: bool = False, assume_hu: bool = False) -> None:
        super().__init__()
        self.series_uid, self.allow_irregular, self.assume_hu = series_uid, allow_irregular, assume_hu

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Whether these are folders, volume files, or DICOM by content."""
        return all(_is_readable(Path(name)) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> Any:
        """A `ReadVolume`, or a list of them to be stacked as channels; for a tuple, instead of raising, the error.

        Raises:
            NoImagesError: a folder holds no DICOM image.
            GeometryError: slices do not form one regular volume.
            InputError: a folder holds several series, CT is not in HU, or a file cannot be read.
        """
        try:
            images = [self._read_one(Path(name)) for name in ensure_tuple(data)]
        except InputError as error:
            if isinstance(data, tuple):
                return error
            raise
        return images if len(images) > 1 else images[0]

    def get_data(self, img: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Array and metadata: `affine` and `original_affine` (4, 4) RAS, `spatial_shape`, `spacing` mm, `space`.

        Raises:
            GeometryError: images to be stacked as channels lie differently.
            InputError: what `read` refused.
        """
        if isinstance(img, InputError):
            raise img
        images: list[ReadVolume] = img if isinstance(img, list) else [img]
        first = images[0]
        for other in images[1:]:
            if other.array.shape != first.array.shape or not np.allclose(other.affine, first.affine, atol=1e-3):
                raise GeometryError("images to be stacked as channels: shape or affine differ; resample them first")
        channel_dim: float = 0 if len(images) > 1 else (-1 if first.array.ndim > 3 else math.nan)
        metadata = {
            MetaKeys.AFFINE: first.affine,
            MetaKeys.ORIGINAL_AFFINE: first.affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(first.array.shape[:3]),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: channel_dim,
            "spacing": np.linalg.norm(first.affine[:3, :3], axis=0),
        }
        array = first.array if len(images) == 1 else np.stack([image.array for image in images])
        return array, {str(key): value for key, value in metadata.items()}

    def _read_one(self, path: Path) -> ReadVolume:
        if path.is_dir() or _is_dicom(path):
            return self._read_series(path)
        try:
            return _read_volume(path)
        except RejectedError as rejection:
            if rejection.reason not in (Reason.MULTIVOLUME, Reason.COLOUR):
                raise InputError(f"{path}: {rejection.detail}; SimpleITK cannot read it either") from rejection
        return _read_channels(path)

    def _read_series(self, path: Path) -> ReadVolume:
        plan = self._plan(path)
        samples: list[NDArray[Any]] = []
        try:
            slices = [read_pixels(instance, samples=samples).pixels for instance in plan.instances]
        except RejectedError as rejection:
            raise InputError(f"{path}: {rejection.detail}") from rejection
        if not self.assume_hu and (why := not_hounsfield(joined(samples), tagged=True)):
            raise InputError(f"{path}: its values are not Hounsfield units: {why}; pass assume_hu=True where they are")
        return ReadVolume(np.stack(slices).transpose(2, 1, 0), _affine(plan))

    def _plan(self, path: Path) -> DicomPlan:
        """The one series of a folder or file, sorted."""
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        found = [frame for file in files for frame in _frames(file, path)]
        if self.series_uid is not None:
            found = [instance for instance in found if instance.series_uid == self.series_uid]
        rules = Rules(assume_hu=self.assume_hu)
        refusals = {instance: why for instance in found if (why := refusal(instance, rules)) is not None}
        instances = [instance for instance in found if instance not in refusals]
        if not instances and refusals:
            raise InputError(f"{path}: {next(iter(refusals.values()))[1]}")
        if not instances:
            wanted = "no DICOM image" if self.series_uid is None else f"no image of series {self.series_uid}"
            raise NoImagesError(f"{path}: holds {wanted}; name the folder in which the files of the series lie")
        count = len({series_uid(instance) for instance in instances})
        if count > 1:
            raise InputError(
                f"{path}: holds {count} DICOM series, needs one; give each a folder of its own, or pass series_uid"
            )
        # The key stands for nothing here: no pseudonym leaves this function.
        plans, tangled = plan_series(instances, b"\0" * 16)
        if len(plans) != 1 or tangled:
            raise GeometryError(
                f"{path}: its series is {len(plans) + len(tangled)} stacks by geometry or acquisition, needs one; "
                "part the files"
            )
        plan = plans[0]
        irregular = plan.flags & STACK_FLAGS
        if len(plan.instances) > 1:
            irregular |= plan.flags & {"no_geometry"}
        if irregular and not self.allow_irregular:
            raise GeometryError(
                f"{path}: its slices form no regular volume ({', '.join(sorted(irregular)).replace('_', ' ')}); "
                "complete the series, or pass allow_irregular=True if an average affine is good enough"
            )
        return plan


# LoadImage("SimpleITKReader") looks there. In MONAI's SUPPORTED_READERS it would become everybody's default.
setattr(monai.data, SimpleITKReader.__name__, SimpleITKReader)


def _frames(file: Path, asked: Path) -> list[Instance]:
    """The images of a file; none for whatever else lies in a folder.

    Raises:
        InputError: the file that was asked for cannot be read.
    """
    if not _is_dicom(file):
        return []
    try:
        return read_frames(file)
    except RejectedError as rejection:
        if file == asked or rejection.reason not in (Reason.NOT_AN_IMAGE, Reason.DICOMDIR):
            raise InputError(f"{file}: {rejection.detail}") from rejection
        return []


def _affine(plan: DicomPlan) -> NDArray[np.float64]:
    """Of the grid (column, row, slice) as stored, RAS; the slice axis runs from the first slice to the last."""
    first, last = plan.instances[0], plan.instances[-1]
    affine = np.eye(4)
    rows_mm, columns_mm = first.spacing_mm or (1.0, 1.0)
    if plan.orientation is None or first.orientation is None or first.position is None or last.position is None:
        affine[:2, :2] = np.diag([columns_mm, rows_mm])
        affine[2, 2] = first.thickness_mm or 1.0
        return np.asarray(LPS_TO_RAS @ affine)
    affine[:3, 0] = np.asarray(first.orientation[:3]) * columns_mm
    affine[:3, 1] = np.asarray(first.orientation[3:]) * rows_mm
    way = np.asarray(last.position) - np.asarray(first.position)
    step = np.asarray(plan.orientation.slice_direction) * (first.thickness_mm or 1.0)
    affine[:3, 2] = way / (len(plan.instances) - 1) if len(plan.instances) > 1 else step
    affine[:3, 3] = first.position
    return np.asarray(LPS_TO_RAS @ affine + 0.0)  # + 0.0 turns -0.0 into 0.0


def _read_volume(path: Path) -> ReadVolume:
    """A NIfTI, NRRD or MetaImage file of one volume, in the values that its header gives."""
    if not is_volume_file(path):
        raise RejectedError(Reason.MULTIVOLUME, "is no volume file")
    volume = read_volume(path)
    return ReadVolume(rescale(volume.stored, volume.slope, volume.intercept), volume.affine)


def _read_channels(path: Path) -> ReadVolume:
    """What SimpleITK makes of a file: a picture, or several volumes as channels."""
    try:
        image: Any = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(
            f"{path}: SimpleITK cannot read it; name a DICOM, NIfTI, NRRD or MetaImage file, or a folder with a "
            "DICOM series"
        ) from error
    dimension, used = image.GetDimension(), min(image.GetDimension(), 3)
    array: NDArray[Any] = sitk.GetArrayFromImage(image)
    array = array.transpose(*reversed(range(dimension)), *range(dimension, array.ndim))
    direction, spacing = np.eye(3), np.ones(3)
    direction[:used, :used] = np.reshape(image.GetDirection(), (dimension, dimension))[:used, :used]
    spacing[:used] = image.GetSpacing()[:used]
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:used, 3] = image.GetOrigin()[:used]
    return ReadVolume(array[:, :, None] if dimension == 2 else array, np.asarray(LPS_TO_RAS @ affine + 0.0))


def _is_readable(path: Path) -> bool:
    return path.is_dir() or is_volume_file(path) or path.suffix.lower() == ".dcm" or _is_dicom(path)


def _is_dicom(path: Path) -> bool:
    if not path.is_file() or is_volume_file(path):
        return False
    with path.open("rb") as file:
        return sniff_dicom(file.read(132))
