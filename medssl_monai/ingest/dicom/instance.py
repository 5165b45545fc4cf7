"""One DICOM image as ingestion knows it, and the SOP classes that are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medssl_monai.store.records import Voi

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
    "SeriesDescription",
    "ProtocolName",
    "SeriesDate",
    "SeriesTime",
    "StudyTime",
    "AcquisitionDate",
    "ContentDate",
    "ContrastBolusAgent",
    "DerivationDescription",
    "NominalPercentageOfCardiacPhase",
    "FilterType",
    "ReconstructionDiameter",
    "SliceThickness",
    "ScanOptions",
    "PatientPosition",
    "StationName",
)
"""Tags that may tell apart images of one series at one position, in the order in which they are tried."""

ENTITY_TAGS = ("StudyInstanceUID", "StudyDate", "SeriesNumber", "FrameOfReferenceUID")
"""Tags of the study, the series and the frame of reference: images that differ in one are of two series, whatever their
SeriesInstanceUID says."""


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
        entities: values of `ENTITY_TAGS`, as text.
        unreadable, unreadable_rescale: whether a tag of the geometry, of the rescale, is there and is not the numbers
            that it should be.
    """

    path: Path
    content: Path
    frame: int | None
    stack: str
    expected: int | None
    series_uid: str
    sop_uid: str
    sop_class: str
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
    slice_location: float | None
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
    entities: tuple[str, ...]
    unreadable: bool
    unreadable_rescale: bool

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
