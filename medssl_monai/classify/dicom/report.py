"""A prediction as DICOM objects that go back to where the images came from: a structured report and pictures.

They hold the patient's identity, copied from the source images, and are therefore written only on explicit request.
The report is a Comprehensive SR by template 1500 (PS3.16 TID 1500, 1501); a picture is a Secondary Capture
(PS3.3 A.8.1) that names its source image (PS3.3 C.7.6.1.1.4). Classes are coded in the private scheme 99MEDSSL.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import highdicom as hd
import numpy as np
import numpy.typing as npt
from highdicom.sr.coding import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medssl_monai.atomic import file_sha256, write_atomically
from medssl_monai.classify.dicom.sources import SourceImage
from medssl_monai.classify.heat_maps import HeatMap, overlay
from medssl_monai.classify.inputs import PredictionInput
from medssl_monai.classify.prediction_result import PredictionResult
from medssl_monai.errors import InputError
from medssl_monai.ingest.dicom.tags import quiet
from medssl_monai.plain_text import plain_text
from medssl_monai.version import __version__

SCHEME = "99MEDSSL"
MAKER = "medssl-monai"
UTF8 = "ISO_IR 192"
FUNCTIONAL_GROUPS = 0x5200  # of an enhanced image's frames: many, and none is copied
REPORT_SERIES, PICTURE_SERIES = 9001, 9002

# Of the patient and study modules (PS3.3 C.7.1.1, C.7.2.1), beside what highdicom copies itself.
COPIED = (
    *("IssuerOfPatientID", "PatientAge", "PatientSize", "PatientWeight", "OtherPatientIDsSequence"),
    *("StudyDescription", "TimezoneOffsetFromUTC"),
)

Bytes = npt.NDArray[np.uint8]


def write_dicom(
    result: PredictionResult,
    heat_maps: Sequence[HeatMap],
    given: PredictionInput,
    folder: Path,
    run: Path,
) -> list[Path]:
    """Write of each DICOM series a report, and a picture of each of its heat maps.

    Args:
        result: the prediction.
        heat_maps: of slices of it.
        given: what was classified, with the headers of its images.
        folder: where the objects go; their names are pseudonyms, their content is not.
        run: folder of the run; its weights are named by their SHA-256.

    Returns:
        The files.

    Raises:
        InputError: none of the classified series came from DICOM, or an image lacks a UID.
    """
    images: dict[str, dict[int, SourceImage]] = {}
    for row in given.rows:
        image = given.sources.image(row)
        if image is not None:
            images.setdefault(row["series_id"], {})[int(row["slice"])] = image
    if not images:
        raise InputError(
            f"--dicom-out {folder}: a report refers to DICOM images, and none of the classified series came from "
            "DICOM files given here; give the DICOM folder, archive or address, or leave the option out"
        )
    algorithm = _algorithm(result, run)
    written = []
    for study in result.studies:
        series = study["series_id"]
        if series not in images:
            continue
        mine = images[series]
        _require_uids(mine)
        maps = [one for one in heat_maps if one.series == series and one.slice in mine]
        written.append(_save(_report(result, study, mine, maps, algorithm), folder / f"{series}_report.dcm"))
        picture_series = generate_uid(prefix=None)
        for number, one in enumerate(maps, start=1):
            picture = _picture(one, mine[one.slice], picture_series, number)
            written.append(_save(picture, folder / f"{series}_slice-{one.slice:04d}.dcm"))
    return written


def _require_uids(images: dict[int, SourceImage]) -> None:
    for image in images.values():
        for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"):
            if not image.header.get(keyword):
                raise InputError(
                    f"--dicom-out: a source image has no {keyword}, so nothing can refer to it; leave --dicom-out out"
                )


def _save(dataset: Dataset, path: Path) -> Path:
    write_atomically(path, lambda p: dataset.save_as(p))
    return path


def _algorithm(result: PredictionResult, run: Path) -> hd.sr.AlgorithmIdentification:
    weights = file_sha256(run / "models" / "model.pt")
    about = result.confidence
    return hd.sr.AlgorithmIdentification(
        name=f"{MAKER} ct_classification",
        version=__version__,
        parameters=[
            f"weights SHA-256 {weights}",
            f"temperature {about.temperature:.4f}: {about.temperature_note}",
            f"out of distribution: {about.reference_note}",
        ],
        manufacturer=MAKER,
    )


def _report(
    result: PredictionResult,
    study: dict[str, Any],
    images: dict[int, SourceImage],
    maps: Sequence[HeatMap],
    algorithm: hd.sr.AlgorithmIdentification,
) -> Dataset:
    """One group for the series, one for each slice that has a picture."""
    rows = {result.slices[i]: i for i in result.series_rows[study["series_id"]]}
    groups = [_group(result, "series", study, [images[n] for n in sorted(images)], algorithm)]
    slices = {row["slice"]: row for row in result.slice_rows() if row["series_id"] == study["series_id"]}
    for one in maps:
        if one.slice in rows:
            groups.append(_group(result, f"slice {one.slice}", slices[one.slice], [images[one.slice]], algorithm))
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(prefix=None, entropy_srcs=[MAKER, __version__]), name=MAKER, manufacturer_name=MAKER
        ),
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CodedConcept("25045-6", "LN", "CT unspecified body region"),
        imaging_measurements=groups,
    )
    headers = {str(image.header.SOPInstanceUID): image.header for image in images.values()}
    evidence = [_complete(header) for header in headers.values()]
    report = hd.sr.ComprehensiveSR(
        evidence=evidence,
        content=content[0],
        series_instance_uid=generate_uid(prefix=None),
        series_number=REPORT_SERIES,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    report.SeriesDescription = "Automatic classification, for research"
    scheme = Dataset()
    scheme.CodingSchemeDesignator, scheme.CodingSchemeName = SCHEME, MAKER
    scheme.CodingSchemeResponsibleOrganization = MAKER
    report.CodingSchemeIdentificationSequence = [scheme]
    _copy(evidence[0], report)
    return report


def _group(
    result: PredictionResult,
    name: str,
    row: dict[str, Any],
    images: Sequence[SourceImage],
    algorithm: hd.sr.AlgorithmIdentification,
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    """A row of a result (TID 1501): probability of each class, distance to training, the class or why there is none."""
    unit = codes.UCUM.NoUnits
    numbers = [
        hd.sr.Measurement(CodedConcept(f"p-{c}", SCHEME, _meaning(f"Probability of {label}")), round(p, 6), unit)
        for c, (label, p) in enumerate(row["probabilities"].items())
    ]
    if row["score"] is not None:
        for code, meaning, key in (
            ("distance", "Distance to the nearest training image", "score"),
            ("threshold", "Distance from which an image is not classified", "threshold"),
        ):
            numbers.append(hd.sr.Measurement(CodedConcept(code, SCHEME, meaning), float(row[key]), unit))
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(uid=generate_uid(prefix=None), identifier=name),
        finding_type=CodedConcept("class", SCHEME, "Image classification"),
        algorithm_id=algorithm,
        measurements=numbers,
        qualitative_evaluations=[
            hd.sr.QualitativeEvaluation(CodedConcept("predicted", SCHEME, "Predicted class"), value)
            for value in _values(result, row)
        ],
        source_images=[
            hd.sr.SourceImageForMeasurementGroup(
                image.header.SOPClassUID,
                image.header.SOPInstanceUID,
                None if image.frame is None else [image.frame],
            )
            for image in images
        ],
    )


def _values(result: PredictionResult, row: dict[str, Any]) -> list[CodedConcept]:
    if row["flag"]:
        return [CodedConcept("unlike-training", SCHEME, "Not classified: unlike the training images")]
    if row["predicted"] == "":
        return [CodedConcept("none", SCHEME, "None of the classes")]
    names = row["predicted"].split("|") if result.task == "multilabel" else [row["predicted"]]
    return [CodedConcept(f"class-{list(result.classes).index(name)}", SCHEME, _meaning(name)) for name in names]


def _meaning(text: str) -> str:
    """As a code meaning (LO, PS3.5 table 6.2-1): 64 characters, no control character, no separator of values."""
    return plain_text(text).replace("\\", "/")[:64]


def _complete(header: Any) -> Any:
    """The header as text, with empty values for what a conforming image may not lack (type 2), but real ones do.

    What is text now is written in UTF-8. The image's own character set is not asked about any more: highdicom refuses
    an empty first value, which Japanese and Korean files have (PS3.3 C.12.1.1.2).
    """
    _decode(header)
    header.SpecificCharacterSet = UTF8
    for keyword in (
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
        *("AccessionNumber", "StudyID", "ReferringPhysicianName"),
    ):
        if keyword not in header:
            setattr(header, keyword, "")
    return header


def _decode(header: Any) -> None:
    """Sequences as text too: what stays bytes would be copied as it is into an object with another character set."""
    tags = list(header.keys())  # a dataset itself gives elements, and the first broken one would raise
    with quiet():
        for tag in (tag for tag in tags if tag.group != FUNCTIONAL_GROUPS):
            try:
                for item in header[tag].value if header[tag].VR == "SQ" else ():
                    item.decode()
            except Exception:  # whatever pydicom meets in a broken value, which cannot be copied either
                del header[tag]


def _copy(source: Any, target: Dataset) -> None:
    for keyword in COPIED:
        if keyword in source and keyword not in target:
            setattr(target, keyword, source[keyword].value)
    target.SpecificCharacterSet = UTF8
    target.walk(_drop_character_set)


def _drop_character_set(dataset: Dataset, element: Any) -> None:
    """Of an item of a sequence, which then has its object's; a callback of pydicom's ``walk``."""
    for item in element.value if element.VR == "SQ" else ():
        if "SpecificCharacterSet" in item:
            del item.SpecificCharacterSet


def _picture(heat_map: HeatMap, image: SourceImage, series_uid: str, number: int) -> Dataset:
    source = _complete(image.header)
    picture = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=heat_map_picture(heat_map),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        series_instance_uid=series_uid,
        series_number=PICTURE_SERIES,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=number,
        manufacturer=MAKER,
        patient_orientation=("L", "P"),  # as slices of a store
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    picture.SeriesDescription = "Grad-CAM of an automatic classification"
    picture.DerivationDescription = f"Grad-CAM over a slice shown at {heat_map.window}; research"
    picture.Laterality = ""  # type 2C: a slice shows both sides
    picture.BurnedInAnnotation = "NO"  # the caption names no patient
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if image.frame is not None:
        reference.ReferencedFrameNumber = image.frame
    purpose = CodedConcept("121322", "DCM", "Source image for image processing operation")
    reference.PurposeOfReferenceCodeSequence = [purpose]
    picture.SourceImageSequence = [reference]
    _copy(source, picture)
    return picture


def heat_map_picture(heat_map: HeatMap) -> Bytes:
    """Grad-CAM over the slice (H', W, 3) uint8, at least 384 pixels wide, with a caption below."""
    colours = (overlay(heat_map.picture, heat_map.grad_cam) * 255).round().astype(np.uint8)
    times = max(1, -(-384 // colours.shape[1]))
    colours = np.ascontiguousarray(colours.repeat(times, axis=0).repeat(times, axis=1))
    answer = "not classified: unlike training" if heat_map.flag else plain_text(heat_map.asked).replace("_", " ")
    lines = [f"{answer}, {heat_map.probability:.2f}" if not heat_map.flag else answer]
    lines.append("Grad-CAM: dark nothing, yellow most; research only")
    band = np.zeros((20 * len(lines) + 10, colours.shape[1], 3), np.uint8)
    for number, line in enumerate(lines):
        line = line.encode("ascii", "replace").decode()
        place = (8, 20 * number + 20)
        cv2.putText(band, line, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return np.concatenate([colours, band])
