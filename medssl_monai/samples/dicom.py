"""Synthetic slices as CT Image Storage objects (DICOM PS3.3 A.3), Explicit VR Little Endian."""

import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

INTERCEPT_HU = -1024


class Slices(Protocol):
    """What is needed of a patient: `medssl_monai.samples.phantom.PhantomPatient` has it."""

    @property
    def index(self) -> int:
        """Number of the patient."""

    @property
    def seed(self) -> int:
        """Seed of the phantom."""

    @property
    def volume(self) -> NDArray[np.int16]:
        """HU, slices × rows × columns."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between slices, rows, columns."""


@dataclass(frozen=True)
class SeriesUIDs:
    """Unique identifiers of one series and of what it belongs to."""

    study: UID
    series: UID
    frame_of_reference: UID
    entropy: str

    def instance(self, number: int) -> UID:
        """SOPInstanceUID of the image with this InstanceNumber."""
        return _uid(self.entropy, "instance", str(number))


def series_uids(seed: int, index: int) -> SeriesUIDs:
    """The same seed and patient give the same identifiers."""
    entropy = f"medssl phantom {seed} {index}"
    return SeriesUIDs(_uid(entropy, "study"), _uid(entropy, "series"), _uid(entropy, "frame"), entropy)


def _uid(*entropy: str) -> UID:
    return generate_uid(entropy_srcs=list(entropy))


def encode_slice(patient: Slices, slice_number: int, instance_number: int, uids: SeriesUIDs) -> bytes:
    """One slice as the bytes of a DICOM file.

    HU = stored - 1024, stored in unsigned 12 bits. Image orientation is (1, 0, 0, 0, 1, 0): columns run to the
    patient's left, rows to posterior, and z of the position grows with `slice_number` (0 = most inferior).
    """
    between_mm, row_mm, column_mm = patient.spacing_mm
    rows, columns = patient.volume.shape[1:]
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # filled in by the writer
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = uids.instance(instance_number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid("medssl phantom implementation")
    ds = FileDataset("", {}, preamble=bytes(128), file_meta=meta, is_implicit_VR=False, is_little_endian=True)
    # Patient, General Study, General Series, Frame of Reference, Equipment: PS3.3 C.7.1 to C.7.5
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"Phantom^Synthetic {patient.index + 1:03d}"
    ds.PatientID = f"PHANTOM-{patient.seed}-{patient.index + 1:03d}"
    ds.PatientBirthDate = ""
    ds.PatientSex = "O"
    ds.StudyInstanceUID = uids.study
    ds.StudyDate = "20000101"
    ds.StudyTime = "000000"
    ds.ReferringPhysicianName = ""
    ds.StudyID = "1"
    ds.AccessionNumber = ""
    ds.StudyDescription = "Synthetic phantom, not a person"
    ds.Modality = "CT"
    ds.SeriesInstanceUID = uids.series
    ds.SeriesNumber = 1
    ds.SeriesDescription = "Phantom pelvis to vertex"
    ds.PatientPosition = "HFS"
    ds.FrameOfReferenceUID = uids.frame_of_reference
    ds.PositionReferenceIndicator = ""
    ds.Manufacturer = "medssl-monai phantom"
    # General Image, Image Plane, Image Pixel: C.7.6.1 to C.7.6.3
    ds.InstanceNumber = instance_number
    ds.ContentDate = "20000101"
    ds.ContentTime = "000000"
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [
        round(-column_mm * (columns - 1) / 2, 4),
        round(-row_mm * (rows - 1) / 2, 4),
        round(between_mm * slice_number, 4),
    ]
    ds.PixelSpacing = [row_mm, column_mm]
    ds.SliceThickness = min(5.0, between_mm)
    ds.SliceLocation = round(between_mm * slice_number, 4)
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = rows, columns
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    # CT Image and VOI LUT: C.8.2.1, C.11.2
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = uids.instance(instance_number)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber = 1
    ds.KVP = 120
    ds.RescaleIntercept = INTERCEPT_HU
    ds.RescaleSlope = 1
    ds.RescaleType = "HU"
    ds.WindowCenter = 40
    ds.WindowWidth = 400
    stored = patient.volume[slice_number].astype(np.int32) - INTERCEPT_HU
    ds.PixelData = stored.astype("<u2").tobytes()
    buffer = io.BytesIO()
    ds.save_as(buffer)
    return buffer.getvalue()
