"""The real server over a real PACS: Orthanc on loopback, CT and DX."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from medssl_monai.classify.finetune import finetune
from tests.label_server.conftest import SMALL
from tests.label_server.server import REASON, WITHOUT_ENVIRONMENT, running_server
from tests.loopback import PASSWORD, USER, WITHOUT_ORTHANC, running_orthanc
from tests.loopback import REASON as WHY_ORTHANC

pytestmark = [
    pytest.mark.label,
    pytest.mark.pacs,
    pytest.mark.skipif(WITHOUT_ENVIRONMENT, reason=REASON),
    pytest.mark.skipif(WITHOUT_ORTHANC, reason=WHY_ORTHANC),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def radiographs(phantom_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two DX images with made-up pixels."""
    folder = tmp_path_factory.mktemp("dx")
    source = next(phantom_labels.parent.rglob("*.dcm"))
    for number in range(2):
        image = pydicom.dcmread(source)
        for name in ("ImagePositionPatient", "ImageOrientationPatient", "RescaleIntercept", "RescaleSlope"):
            if name in image:
                delattr(image, name)
        kind, instance = UID("1.2.840.10008.5.1.4.1.1.1.1"), UID(f"1.2.826.0.1.3680043.10.999.{number}.3")
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = kind
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = instance
        image.StudyInstanceUID, image.SeriesInstanceUID = (f"1.2.826.0.1.3680043.10.999.{number}.{i}" for i in (1, 2))
        image.Modality, image.PatientID = "DX", f"PLANTED-DX-{number}"
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 4000, (image.Rows, image.Columns)).astype(np.uint16)
        image.PixelData, image.PixelRepresentation = pixels.tobytes(), 0
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit = 15
        image.save_as(folder / f"{number}.dcm")
    return folder


@pytest.fixture(scope="module")
def address(phantom_labels: Path, radiographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    sent = [*sorted(phantom_labels.parent.rglob("*.dcm")), *sorted(radiographs.glob("*.dcm"))]
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), sent) as found:
        yield found


@pytest.fixture(autouse=True, scope="module")
def credentials() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDSSL_DICOMWEB_USER", USER)
        patch.setenv("MEDSSL_DICOMWEB_PASSWORD", PASSWORD)
        yield


def test_ct_of_a_pacs(address: str, phantom_labels: Path, small_run: Path, tmp_path: Path) -> None:
    """Images by SeriesInstanceUID; nothing is fetched before it is asked for; labels and training as for a folder."""
    uids = {str(pydicom.dcmread(p).SeriesInstanceUID) for p in phantom_labels.parent.rglob("*.dcm")}
    work = tmp_path / "work"
    with running_server(address, work, "--model", str(small_run)) as client:
        images = client.images()
        assert set(images) == uids
        assert not (work / "store").exists()
        first = client.infer("classification", images[0])
        assert first.status == 200
        assert len(first.json["slices"]) == 6
        assert len(list((work / "store" / "series").glob("*.b2nd"))) == 1
        file = tmp_path / "study.nii.gz"
        file.write_bytes(client.ask("GET", f"/datastore/image?image={images[0]}").body)
        again = client.ask("POST", "/infer/classification", files={"file": file}).json
        assert again["prediction"] == first.json["prediction"]
        assert client.ask("POST", f"/infer/evidence?image={images[0]}&output=image").status == 200
        assert client.infer("classification", "1.2.3").status == 404
        shown = client.ask("POST", "/form/next", body={"strategy": "random", "skipped": []})
        picture = client.ask("GET", f"/form/slice?series={shown.json['series']}&position=5")
        assert picture.body.startswith(b"\x89PNG")
        assert not [uid for uid in uids if uid.encode() in shown.body + picture.body], "the form knows pseudonyms only"
        sent = {"series": shown.json["series"], "label": "upper", "before": None}
        assert client.ask("PUT", "/form/class", body=sent).status == 200
        assert client.ask("GET", "/datastore/").json["completed"] == 1
        for number, image in enumerate(images):
            assert client.label(image, {"label": ("upper", "lower")[number % 2]}, tmp_path).status == 200
        assert client.ask("GET", "/datastore/").json["completed"] == len(images)
        request = {"max_epochs": 1, "batch_size": 6, "frozen_epochs": 0, "val_split": 0.4}
        assert client.ask("POST", "/train/finetuning", body=request).status == 200
        done = client.wait_for("/train/")
        assert done["status"] == "DONE", done["details"]
        assert list(client.infer("classification", images[0]).json["label_names"]) == ["lower", "upper"]
        # Viewers read images through the server, with its credentials; they cannot write.
        # MONAI Label hands on Orthanc's compressed answer, whatever was asked for.
        listed = json.loads(gzip.decompress(client.ask("GET", "/proxy/dicom/qido/studies").body))
        assert len(listed) == len(uids) + 2
        assert client.ask("POST", "/proxy/dicom/stow/studies", body={}).status == 403
        upload = client.ask("PUT", "/datastore/image", files={"file": file})
        assert upload.status == 400
        assert "PACS" in upload.json["detail"]
    names = [p.name for p in work.rglob("*") if p.parts[-2] != "logs"]
    assert not [name for name in names if any(uid in name for uid in uids)]
    assert not list(work.rglob("*.dcm"))


def test_dx_of_a_pacs(address: str, radiographs: Path, tmp_path: Path) -> None:
    """Windows in HU mean nothing in X-rays: the classifier is trained with the window of each image's own range."""
    table = tmp_path / "labels.csv"
    table.write_text(f"source,label\n{radiographs}/0.dcm,plain\n{radiographs}/1.dcm,odd\n")
    from medssl_monai.ingest import build_store

    build_store([radiographs], tmp_path / "store", modality="DX", progress=False)
    settings = {**SMALL, "batch_size": 2, "max_epochs": 1, "frozen_epochs": 0, "window": "minmax"}
    finetune(table, tmp_path / "run", store=tmp_path / "store", **settings)
    options = ("--model", str(tmp_path / "run"), "--modality", "DX")
    with running_server(address, tmp_path / "work", *options) as client:
        images = client.images()
        assert images == [f"1.2.826.0.1.3680043.10.999.{number}.2" for number in range(2)]
        answer = client.infer("classification", images[0]).json
        assert [one["label"] for one in answer["prediction"]] == ["odd", "plain"]
        assert sum(one["score"] for one in answer["prediction"]) == pytest.approx(1)
        assert client.ask("GET", f"/datastore/image?image={images[1]}").status == 200
