"""Reports and pictures as DICOM: they refer to their sources, and dicom3tools finds no error in them."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pydicom
import pytest
import yaml
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from medssl_monai.classify.dicom.report import _complete
from medssl_monai.classify.predict import PredictionOptions, predict
from medssl_monai.errors import InputError


@pytest.fixture(scope="module")
def source(phantom_labels: Path) -> Path:
    return phantom_labels.parent / "phantom-005"


@pytest.fixture(scope="module")
def objects(fine_tuned: Path, source: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("dicom")
    options = PredictionOptions(heat_maps=2, dicom_out=folder / "objects")
    predict(fine_tuned, [source], folder / "tables", options)
    return sorted((folder / "objects").iterdir())


def headers(source: Path) -> dict[str, pydicom.Dataset]:
    found = [pydicom.dcmread(path, stop_before_pixels=True) for path in source.rglob("*.dcm")]
    return {str(one.SOPInstanceUID): one for one in found}


def test_they_go_back_to_the_patient_and_study(objects: list[Path], source: Path) -> None:
    image = next(iter(headers(source).values()))
    made = [pydicom.dcmread(path) for path in objects]
    assert [one.Modality for one in made] == ["SR", "OT", "OT"]
    for one in made:
        assert (one.PatientID, str(one.PatientName)) == (image.PatientID, str(image.PatientName))
        assert one.StudyInstanceUID == image.StudyInstanceUID
        assert one.SeriesInstanceUID != image.SeriesInstanceUID
    assert len({one.SOPInstanceUID for one in made}) == 3
    assert str(image.PatientID) not in " ".join(path.name for path in objects)


def test_the_report_says_what_the_tables_say(objects: list[Path], source: Path) -> None:
    report = pydicom.dcmread(objects[0])
    referenced = [
        item.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert sorted(referenced) == sorted(headers(source))
    text = report.to_json()
    for words in ("medssl-monai ct_classification", "weights SHA-256", "temperature", "Probability of", "99MEDSSL"):
        assert words in text


def test_pictures_name_the_very_slice(objects: list[Path], source: Path) -> None:
    known = headers(source)
    heights = sorted(float(one.ImagePositionPatient[2]) for one in known.values())
    for path in objects[1:]:
        picture = pydicom.dcmread(path)
        image = known[picture.SourceImageSequence[0].ReferencedSOPInstanceUID]
        number = int(path.stem.rsplit("-", 1)[1])
        assert float(image.ImagePositionPatient[2]) == heights[number]
        assert picture.pixel_array.shape[2] == 3
        assert picture.pixel_array.shape[1] >= 384


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is missing (Debian: dicom3tools)")
def test_dicom3tools_find_no_error(objects: list[Path], foreign: list[Path]) -> None:
    for path in [*objects, *foreign]:
        done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True, check=False)
        assert not [line for line in done.stderr.splitlines() if line.startswith("Error")], done.stderr
        assert ("ComprehensiveSR" if "report" in path.name else "SCImage") in done.stderr


NAMES = ["Schädel $x$ [/red]", "頭部", r"abdomen\pelvis"]


LATIN = ("ISO_IR 100", "Müller^Jürgen", "Größe", "Köln")
JAPANESE = (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎", "Study", "東京")


@pytest.fixture(scope="module", params=[LATIN, JAPANESE], ids=["latin", "japanese"])
def texts(request: pytest.FixtureRequest) -> Any:
    """Character set, name, description and issuer in the source."""
    return request.param


@pytest.fixture(scope="module")
def foreign(fine_tuned: Path, source: Path, texts: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Objects of a network whose classes have no letters in the source's character set."""
    folder = tmp_path_factory.mktemp("letters")
    for path in source.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        image.SpecificCharacterSet, image.PatientName, image.StudyDescription, issuer = texts
        other = pydicom.Dataset()
        other.PatientID, other.IssuerOfPatientID, other.TypeOfPatientID = "B-1", issuer, "TEXT"
        image.OtherPatientIDsSequence = [other]
        image.save_as(folder / path.name)
    run = folder / "run"
    shutil.copytree(fine_tuned, run)
    for name in ("train.yaml", "inference.yaml"):
        content = yaml.safe_load((run / "configs" / name).read_text(encoding="utf-8"))
        content["classes"] = NAMES
        (run / "configs" / name).write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    predict(run, [folder], folder / "tables", PredictionOptions(heat_maps=1, dicom_out=folder / "objects"))
    return sorted((folder / "objects").iterdir())


def test_letters_of_any_language_arrive(foreign: list[Path], texts: Any) -> None:
    report, picture = (pydicom.dcmread(path) for path in foreign)
    text = json.dumps(report.to_json_dict(), ensure_ascii=False)
    meanings = [name.replace("\\", "/") for name in NAMES]  # a backslash would part two values
    assert all(f"Probability of {meaning}" in text for meaning in meanings)
    _, name, description, issuer = texts
    for one in (report, picture):
        assert one.SpecificCharacterSet == "ISO_IR 192"
        assert (str(one.PatientName), one.StudyDescription) == (name, description)
        (other,) = one.OtherPatientIDsSequence
        assert (other.PatientID, other.IssuerOfPatientID) == ("B-1", issuer)
    for path in foreign:
        content = path.read_bytes()
        assert name.encode() in content and issuer.encode() in content
        if texts is LATIN:
            assert name.encode("latin-1") not in content and issuer.encode("latin-1") not in content


def test_a_broken_value_that_is_not_needed_does_not_stop_a_report() -> None:
    header = pydicom.Dataset()
    header.PatientID, header.PatientName = "1", "A"
    broken = RawDataElement(Tag("PregnancyStatus"), "US", 3, b"two", 0, False, True)
    header[broken.tag] = broken
    assert "PregnancyStatus" not in _complete(header)
    assert header.PatientID == "1" and header.AccessionNumber == ""


def test_members_of_an_archive_are_referred_to(fine_tuned: Path, source: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "study"), "zip", source)
    options = PredictionOptions(dicom_out=tmp_path / "objects", names=True)
    (study,) = predict(fine_tuned, archive, tmp_path / "tables", options).studies
    assert study["source"].startswith(archive)
    report = pydicom.dcmread(next((tmp_path / "objects").glob("*_report.dcm")))
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert sorted(item.ReferencedSOPInstanceUID for item in evidence) == sorted(headers(source))


def test_sources_that_are_not_dicom_are_refused(fine_tuned: Path, phantom_store: object, tmp_path: Path) -> None:
    options = PredictionOptions(dicom_out=tmp_path / "objects")
    with pytest.raises(InputError, match="none of the classified series came from DICOM"):
        predict(fine_tuned, [phantom_store.path], tmp_path / "tables", options)  # type: ignore[attr-defined]
    assert not (tmp_path / "objects").exists()
