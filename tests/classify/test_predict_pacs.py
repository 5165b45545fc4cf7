"""Prediction of a study that a real PACS holds: Orthanc with its DICOMweb plug-in, started on loopback."""

import json
from pathlib import Path

import pydicom
import pytest

from medssl_monai.classify.predict import PredictionOptions, predict
from tests.loopback import PASSWORD, REASON, USER, WITHOUT_ORTHANC, running_orthanc

pytestmark = [pytest.mark.pacs, pytest.mark.skipif(WITHOUT_ORTHANC, reason=REASON)]


def test_a_study_is_predicted_as_from_its_files(
    fine_tuned: Path, phantom_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDSSL_DICOMWEB_USER", USER)
    monkeypatch.setenv("MEDSSL_DICOMWEB_PASSWORD", PASSWORD)
    patients = [phantom_labels.parent / name for name in ("phantom-004", "phantom-005")]
    files = [file for folder in patients for file in sorted(folder.rglob("*")) if file.is_file()]
    study = str(pydicom.dcmread(files[-1], stop_before_pixels=True).StudyInstanceUID)
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc", files) as address:
        options = PredictionOptions(dicom_out=tmp_path / "objects")
        found = predict(fine_tuned, [f"{address}/studies/{study}"], tmp_path / "pacs", options).studies
    assert found == predict(fine_tuned, [patients[1]], tmp_path / "files").studies
    assert len(found) == 1 and found[0]["slices"] == 6
    written = (tmp_path / "pacs" / "prediction.json").read_text(encoding="utf-8")
    assert study not in written and json.loads(written)["left_out"] == []
    reports = [pydicom.dcmread(file) for file in (tmp_path / "objects").iterdir()]
    assert len(reports) == 2 and {report.StudyInstanceUID for report in reports} == {study}
