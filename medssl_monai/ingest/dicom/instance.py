"""Reads the headers of DICOM files: the allow-listed tags and nothing else.

Patient identifiers (PatientID, UIDs) stay in memory, as input to keyed hashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pydicom
from pydicom.tag import Tag
from pydicom.uid import UID

from medssl_monai.errors import GeometryError
from medssl_monai.ingest.dicom.fast_header import asked_for, plain_header
from medssl_monai.ingest.dicom.frames import FrameHeader, described_frames
from medssl_monai.ingest.dicom.tags import day, integer, number, numbers, quiet, reading, text, texts
from medssl_monai.ingest.dicom.voi import read_voi
from medssl_monai.ingest.dicom.words import body_part, kernel
from medssl_monai.ingest.geometry import canonical_orientation
from medssl_monai.store.records import Voi
from medssl_monai.store.verdicts import Reason, RejectedError

IMAGE_CLASSES: dict[str, str] = {
    "1.2.840.10008.5.1.4.1.1.1": "CR",
    "1.2.840.10008.5.1.4.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.1.1": "DX",
    "1.2.840.10008.5.1.4.1.1.1.2": "MG",
    "1.2.840.10008.5.1.4.1.1.1.2.1": "MG",
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "CT",
    "1.2.840.10008.5.1.4.1.1.3.1": "US",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.4.4": "MR",
    "1.2.840.10008.5.1.4.1.1.6.1": "US",
    "1.2.840.10008.5.1.4.1.1.12.1": "XA",
    "1.2.840.10008.5.1.4.1.1.12.2": "RF",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
    "1.2.840.10008.5.1.4.1.1.128.1": "PT",
    "1.2.840.10008.5.1.4.1.1.130": "PT",
}
"""SOP classes that are pictures of a patient, and their modality (PS3.4 B.5). All else is skipped by class."""

ENHANCED_CLASSES = frozenset(
    {
        *("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2", "1.2.840.10008.5.1.4.1.1.4.1"),
        *("1.2.840.10008.5.1.4.1.1.4.4", "1.2.840.10008.5.1.4.1.1.128.1", "1.2.840.10008.5.1.4.1.1.130"),
    }
)
"""Those whose frames are slices, described by functional groups (PS3.3 C.7.6.16)."""

UNCOMPRESSED_SYNTAXES = frozenset(
    {"", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"}
)

LOSSY_SYNTAXES = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"})

DISCRIMINATORS = (
    "AcquisitionNumber",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "EchoNumbers",
    "DiffusionBValue",
    "TriggerTime",
    "ConvolutionKernel",
    "ImageType",
    "KVP",
    "AcquisitionTime",
)
"""Tags that may tell apart images of one series at one position, in the order in which they are tried."""

HEADER_TAGS = (
    *DISCRIMINATORS,
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID", "Modality"),
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "BurnedInAnnotation"),
    *("StudyDate", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("SliceThickness", "SpacingBetweenSlices", "InstanceNumber", "BodyPartExamined"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("LossyImageCompression", "ImagesInAcquisition"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""The allow-list: nothing else is read from a header."""

_HEADER_TAGS = [Tag(keyword) for keyword in HEADER_TAGS]

_HEADER_FIELDS = asked_for(HEADER_TAGS)

MOST_PIXELS = 1 << 28
"""Of one image: more than any detector has, and fewer than a block of the store can hold."""

COMPRESSED_FRAME_BYTES = 64

HEAD_BYTES = 1 << 15
"""In the first so many bytes of a file, most headers end."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One DICOM image, or one frame of many: what grouping, sorting and the index need of its header.

    Attributes:
        path: where it stands, for a member of an archive as if the archive were a folder.
        content: the file that holds its bytes.
        frame: its number in an enhanced object, from 0; None for an object that is one image.
        stack: StackID of an enhanced object's frame.
        study_day: StudyDate as a number of days; like the identifiers it stays in memory.
        expected: ImagesInAcquisition.
        position: ImagePositionPatient, LPS mm.
        orientation: ImageOrientationPatient, six cosines of two axes at right angles.
        spacing_mm: (row, column).
        imager_spacing: whether the spacing is ImagerPixelSpacing.
        slope, intercept: of the Modality LUT module; None where the tag is missing or empty.
        voi: windows and tables for showing it.
        compressed: whether a decoder is needed for its pixels.
        discriminators: values of `DISCRIMINATORS`, as text.
    """

    path: Path
    content: Path
    frame: int | None
    stack: str
    expected: int | None
    series_uid: str
    sop_uid: str
    sop_class: str
    frame_of_reference: str
    patient_id: str
    study_day: int | None
    modality: str
    shape: tuple[int, int]
    frames: int
    samples: int
    photometric: str
    image_type: tuple[str, ...]
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing_mm: tuple[float, float] | None
    imager_spacing: bool
    thickness_mm: float | None
    number: int | None
    slope: float | None
    intercept: float | None
    has_lut: bool
    rescale_type: str
    body_part: str
    kernel: str
    voi: Voi
    lossy: bool
    compressed: bool
    burned_in: bool
    discriminators: tuple[str, ...]

    @property
    def centre_z_mm(self) -> float | None:
        """z of the middle of the image, mm (PS3.3 equation C.7.6.2.1-1); of its corner where the grid is unknown."""
        if self.position is None or self.orientation is None or self.spacing_mm is None:
            return None if self.position is None else self.position[2]
        along_columns = self.orientation[2] * self.spacing_mm[1] * (self.shape[1] - 1) / 2
        along_rows = self.orientation[5] * self.spacing_mm[0] * (self.shape[0] - 1) / 2
        return self.position[2] + along_columns + along_rows

    @property
    def window(self) -> tuple[float, float] | None:
        """The first window of the tags."""
        return self.voi.windows[0] if self.voi.windows else None

    @property
    def identity(self) -> str:
        """What tells this image from all others: its UID, else its path; and the frame."""
        name = self.sop_uid or str(self.path.resolve())
        return name if self.frame is None else f"{name} frame {self.frame}"


def sniff_dicom(head: bytes) -> bool:
    """Whether a file's first 132 bytes look like DICOM: with the preamble, or starting with a group 0002 or 0008."""
    return head[128:132] == b"DICM" or head[:2] in (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")


def read_instance(path: Path, content: Path | None = None) -> Instance:
    """The allow-listed header of one file, of its top level only.

    Args:
        path: where the file stands.
        content: the file that holds its bytes, where that is another.

    Raises:
        RejectedError: it is not readable as DICOM, or not an image.
    """
    with quiet():
        return _instance(_header(content or path), path, content or path, None)


def read_frames(path: Path, content: Path | None = None, head: bytes | None = None) -> list[Instance]:
    """The headers of all images in one file: of each frame of an enhanced object, otherwise one.

    Args:
        path: where the file stands.
        content: the file that holds its bytes, where that is another.
        head: its first bytes, where they were read already, which saves time.

    Raises:
        RejectedError: as `read_instance`; or its NumberOfFrames cannot be.
    """
    content = content or path
    plain = None if head is None else plain_header(head, _HEADER_FIELDS, whole=False)
    if plain is not None:
        image = _instance(plain, path, content, None)
        if image.sop_class not in ENHANCED_CLASSES:
            return [image]
    with quiet():
        dataset = _header(content)
        whole = _instance(dataset, path, content, None)
        if whole.sop_class not in ENHANCED_CLASSES:
            return [whole]
        _check_frames(dataset, whole)
        return [_instance(FrameHeader(dataset, i), path, content, i) for i in range(max(1, whole.frames))]


def _check_frames(dataset: Any, whole: Instance) -> None:
    """Refuses a NumberOfFrames that the object contradicts, which could keep a run busy for ever."""
    described = described_frames(dataset)
    if described and described != whole.frames:
        raise RejectedError(
            Reason.UNREADABLE,
            f"says that it has {whole.frames} frames and describes {described}; the object is damaged or incomplete",
        )
    # Nothing packs a frame into less than the offsets and the headers that each has.
    least = COMPRESSED_FRAME_BYTES if whole.compressed else max(1, whole.shape[0] * whole.shape[1] // 8)
    if not described and whole.frames > max(1, whole.content.stat().st_size // least):
        raise RejectedError(
            Reason.UNREADABLE, f"says that it has {whole.frames} frames, more than its file can hold; it is damaged"
        )


def _header(content: Path) -> Any:
    with reading():
        return pydicom.dcmread(content, stop_before_pixels=True, force=True, specific_tags=_HEADER_TAGS)


def _instance(dataset: Any, path: Path, content: Path, frame: int | None) -> Instance:
    syntax = text(dataset.file_meta, "TransferSyntaxUID")
    stored_class = text(dataset.file_meta, "MediaStorageSOPClassUID")
    sop_class = text(dataset, "SOPClassUID") or stored_class
    if sop_class == "1.2.840.10008.1.3.10":
        raise RejectedError(Reason.DICOMDIR, "a DICOMDIR is a table of contents; the files themselves were scanned")
    if not sop_class:
        raise RejectedError(Reason.UNREADABLE, "has no SOPClassUID; not a whole DICOM object")
    if sop_class not in IMAGE_CLASSES:
        # Only names of the standard's own dictionary may leave: an unknown UID could carry anything.
        with quiet():
            name = UID(sop_class).name
        shown = name if name != sop_class else "an unknown SOP class"
        raise RejectedError(Reason.NOT_AN_IMAGE, f"{shown} is no kind of image that is read")
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    if not rows or not columns:
        raise RejectedError(Reason.UNREADABLE, "has no Rows and Columns; the object is incomplete")
    if min(rows, columns) < 0 or rows * columns > MOST_PIXELS:
        raise RejectedError(Reason.UNREADABLE, "has Rows and Columns that no image has; the object is damaged")
    spacing, imager = numbers(dataset, "PixelSpacing", 2), False
    if spacing is None:
        spacing = numbers(dataset, "ImagerPixelSpacing", 2)
        imager = spacing is not None
    if spacing is not None and min(spacing) <= 0:
        spacing, imager = None, False
    return Instance(
        path=path,
        content=content,
        frame=frame,
        stack=text(dataset, "StackID") if frame is not None else "",
        expected=integer(dataset, "ImagesInAcquisition") if frame is None else None,
        series_uid=text(dataset, "SeriesInstanceUID"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        sop_class=sop_class,
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        patient_id=text(dataset, "PatientID"),
        study_day=day(dataset, "StudyDate"),
        modality=IMAGE_CLASSES[sop_class],
        shape=(rows, columns),
        frames=(integer(dataset, "NumberOfFrames") or 1) if frame is None else 1,
        samples=integer(dataset, "SamplesPerPixel") or 1,
        photometric=text(dataset, "PhotometricInterpretation"),
        image_type=tuple(word.strip().upper() for word in texts(dataset, "ImageType")),
        position=numbers(dataset, "ImagePositionPatient", 3),
        orientation=_orientation(dataset),
        spacing_mm=None if spacing is None else (spacing[0], spacing[1]),
        imager_spacing=imager,
        thickness_mm=number(dataset, "SliceThickness") or number(dataset, "SpacingBetweenSlices"),
        number=integer(dataset, "InstanceNumber"),
        slope=number(dataset, "RescaleSlope"),
        intercept=number(dataset, "RescaleIntercept"),
        has_lut="ModalityLUTSequence" in dataset,
        rescale_type=text(dataset, "RescaleType").upper(),
        body_part=body_part(text(dataset, "BodyPartExamined")),
        kernel=kernel(texts(dataset, "ConvolutionKernel")),
        voi=read_voi(dataset),
        lossy=text(dataset, "LossyImageCompression") == "01" or syntax in LOSSY_SYNTAXES,
        compressed=syntax not in UNCOMPRESSED_SYNTAXES,
        burned_in=text(dataset, "BurnedInAnnotation").upper() == "YES",
        discriminators=tuple("\\".join(texts(dataset, keyword)) for keyword in DISCRIMINATORS),
    )


def _orientation(dataset: Any) -> tuple[float, ...] | None:
    """ImageOrientationPatient; None also where its vectors are no axes, such as the six zeros that some writers put."""
    cosines = numbers(dataset, "ImageOrientationPatient", 6)
    return cosines if cosines is not None and _are_axes(cosines) else None


@lru_cache(maxsize=1024)
def _are_axes(cosines: tuple[float, ...]) -> bool:
    try:
        with quiet():
            canonical_orientation(cosines[:3], cosines[3:])
    except GeometryError:
        return False
    return True
