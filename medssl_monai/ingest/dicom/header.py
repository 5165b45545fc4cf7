"""Reads the headers of DICOM files: the allow-listed tags and nothing else.

Patient identifiers (PatientID, UIDs) stay in memory, as input to keyed hashes. Windows and tables that an image
proposes for showing it (PS3.3 C.11.2) are kept as data, never burned in. Free text leaves only as words that are known,
because any other could be a name or a number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pydicom
from pydicom.tag import Tag
from pydicom.uid import UID

from medssl_monai.errors import GeometryError
from medssl_monai.ingest.dicom.fast_header import asked_for, deflated_start, plain_header
from medssl_monai.ingest.dicom.frames import FrameHeader, described_frames
from medssl_monai.ingest.dicom.instance import (
    DISCRIMINATORS,
    ENHANCED_CLASSES,
    ENTITY_TAGS,
    IMAGE_CLASSES,
    LOSSY_SYNTAXES,
    UNCOMPRESSED_SYNTAXES,
    Instance,
)
from medssl_monai.ingest.dicom.tags import (
    day,
    decimal,
    first_item,
    has_content,
    integer,
    items,
    number,
    numbers,
    quiet,
    reading,
    text,
    texts,
)
from medssl_monai.ingest.geometry import canonical_orientation
from medssl_monai.ingest.sources.inflate import check_size, inflate
from medssl_monai.store.records import Voi
from medssl_monai.store.verdicts import Reason, RejectedError

HEADER_TAGS = (
    *DISCRIMINATORS,
    *ENTITY_TAGS,
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "PatientID", "Modality"),
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "PhotometricInterpretation", "BurnedInAnnotation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "ImagerPixelSpacing"),
    *("SpacingBetweenSlices", "SliceLocation", "InstanceNumber", "BodyPartExamined"),
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


_TERMS = """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF
    CAROTID CEREBELLUM CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA
    CORONARYARTERY CSPINE CTSPINE DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER
    HAND HEAD HEADNECK HEART HIP HUMERUS IAC ILEUM ILIUM JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG
    MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT OVARY PANCREAS PAROTID
    PATELLA PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SCALP SCAPULA SCLERA SCROTUM SHOULDER SKULL SPINE SPLEEN SSPINE
    STERNUM STOMACH SUBMANDIBULAR TESTIS THIGH THORAX THYMUS THYROID TLSPINE TMJOINT TOE TONGUE TRACHEA TSPINE URETER
    URETHRA UTERUS VAGINA VULVA WHOLEBODY WRIST ZYGOMA
"""

BODY_PARTS = frozenset(_TERMS.split())
"""Terms of BodyPartExamined, in the spelling without spaces."""

_KERNEL_WORDS = "STANDARD STND STD SOFT SMOOTH SHARP LUNG BONE BONEPLUS BONE+ DETAIL EDGE CHEST ULTRA HEAD BRAIN DETL"
_KERNEL = re.compile(r"[A-Z]{1,2}|[A-Z]{1,3}[0-9]{1,3}[A-Z]{0,2}|[0-9]", re.IGNORECASE)


FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")


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
    if whole.compressed:
        check_size(2 * whole.frames * whole.shape[0] * whole.shape[1], whole.content.stat().st_size)
    # Nothing packs a frame into less than the offsets and the headers that each has.
    least = COMPRESSED_FRAME_BYTES if whole.compressed else max(1, whole.shape[0] * whole.shape[1] // 8)
    if not described and whole.frames > max(1, whole.content.stat().st_size // least):
        raise RejectedError(
            Reason.UNREADABLE, f"says that it has {whole.frames} frames, more than its file can hold; it is damaged"
        )


def _header(content: Path) -> Any:
    with reading():
        with content.open("rb") as file:
            start = deflated_start(file.read(HEAD_BYTES))
        if start is not None:
            inflate(content.read_bytes()[start:], 0, "deflate")  # refuses what unpacks to too much
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
    lut = first_item(dataset, "ModalityLUTSequence")
    return Instance(
        path=path,
        content=content,
        frame=frame,
        stack=text(dataset, "StackID") if frame is not None else "",
        expected=integer(dataset, "ImagesInAcquisition") if frame is None else None,
        series_uid=text(dataset, "SeriesInstanceUID"),
        sop_uid=text(dataset, "SOPInstanceUID"),
        sop_class=sop_class,
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
        slice_location=number(dataset, "SliceLocation"),
        slope=number(dataset, "RescaleSlope"),
        intercept=number(dataset, "RescaleIntercept"),
        has_lut=lut is not None,
        rescale_type=text(dataset if lut is None else lut, "RescaleType" if lut is None else "ModalityLUTType").upper(),
        body_part=body_part(text(dataset, "BodyPartExamined")),
        kernel=kernel(texts(dataset, "ConvolutionKernel")),
        voi=read_voi(dataset),
        lossy=text(dataset, "LossyImageCompression") == "01" or syntax in LOSSY_SYNTAXES,
        compressed=syntax not in UNCOMPRESSED_SYNTAXES,
        burned_in=text(dataset, "BurnedInAnnotation").upper() == "YES",
        discriminators=tuple(text(dataset, keyword) for keyword in DISCRIMINATORS),
        entities=tuple(text(dataset, keyword) for keyword in ENTITY_TAGS),
        unreadable=_is_unreadable(dataset),
        unreadable_rescale=any(
            has_content(dataset, name) and number(dataset, name) is None
            for name in ("RescaleSlope", "RescaleIntercept")
        ),
    )


def _is_unreadable(dataset: Any) -> bool:
    """Whether a tag of geometry has content that is not the numbers it should hold."""
    expected = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2, "ImagerPixelSpacing": 2}
    counts = {**expected, "SliceThickness": 1, "SpacingBetweenSlices": 1}
    return any(has_content(dataset, name) and numbers(dataset, name, count) is None for name, count in counts.items())


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


def read_voi(dataset: Any) -> Voi:
    """The windows and tables of a header; none where there are none that can be used.

    Widths are at least 1, or above 0 where the function is not LINEAR (PS3.3 C.11.2.1.2.1, C.11.2.1.3.2).
    """
    named = text(dataset, "VOILUTFunction").upper()
    function = named if named in FUNCTIONS else "LINEAR"
    pairs = zip(_floats(dataset, "WindowCenter"), _floats(dataset, "WindowWidth"), strict=False)
    windows = tuple(
        (level, width)
        for level, width in pairs
        if math.isfinite(level) and math.isfinite(width) and (width >= 1 or (width > 0 and function != "LINEAR"))
    )
    return Voi(windows, function, _tables(dataset))


def _floats(dataset: Any, keyword: str) -> list[float]:
    """All values; NaN for what is no number."""
    found = []
    for one in texts(dataset, keyword):
        try:
            found.append(decimal(one))
        except ValueError:
            found.append(math.nan)
    return found


def _tables(dataset: Any) -> tuple[tuple[int, int, int], ...]:
    tables = items(dataset, "VOILUTSequence")
    with quiet():
        try:
            descriptors = [tuple(int(one) for one in table.LUTDescriptor) for table in tables]
        except Exception:  # what a broken sequence raises varies with the damage
            return ()
    return tuple((one[0], one[1], one[2]) for one in descriptors if len(one) == 3)


def body_part(content: str) -> str:
    """A term of `BODY_PARTS`; nothing for anything else."""
    word = re.sub(r"[ _/+-]", "", content.upper())
    return word if word in BODY_PARTS else ""


def kernel(values: Iterable[str]) -> str:
    """The values parted by spaces, where all of them look like a kernel; nothing otherwise."""
    words = [word for value in values for word in value.split()]
    known = all(word.upper() in _KERNEL_WORDS.split() or _KERNEL.fullmatch(word) for word in words)
    return " ".join(words) if known else ""
