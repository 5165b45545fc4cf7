"""The packed classification bundle in MONAI Label's own `monaibundle` app: loads, infers, trains."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.classify.predict import predict
from medssl_monai.ingest import SliceStore
from medssl_monai.label_server.volumes import series_volume, write_volume
from medssl_monai.runs.pack import pack_bundle
from tests.label_server.server import LABEL_PYTHON, REASON, WITHOUT_ENVIRONMENT, Client, wait_until_up
from tests.loopback import ending, free_port

APP = LABEL_PYTHON.parent.parent / "monailabel" / "sample-apps" / "monaibundle"

pytestmark = [
    pytest.mark.label,
    pytest.mark.skipif(WITHOUT_ENVIRONMENT, reason=REASON),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="module")
def studies(phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom as NIfTI files at one level, as the stock datastore wants them."""
    folder = tmp_path_factory.mktemp("stock-studies")
    for series in phantom_store.series_ids:
        write_volume(phantom_store, series, series_volume(phantom_store, series), folder / f"{series}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def client(small_run: Path, studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("stock")
    shutil.copytree(APP, folder / "app")
    pack_bundle("ct_classification", small_run, folder / "bundle.zip")
    with zipfile.ZipFile(folder / "bundle.zip") as packed:
        packed.extractall(folder / "app" / "model")
    (folder / "stub").mkdir()
    (folder / "stub" / "pydicom_seg.py").touch()  # see medssl_monai/label_server/stand_ins.py
    port = free_port()
    command = [str(LABEL_PYTHON), "-m", "monailabel.main", "start_server", "--app", str(folder / "app")]
    command += ["--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--conf", "models", "ct_classification", "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    environment = {**os.environ, "MONAI_ZOO_SOURCE": "ngc", "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(folder / "stub"), "CUDA_VISIBLE_DEVICES": ""}
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=folder)
        with ending(process):
            found = Client(f"http://127.0.0.1:{port}")
            wait_until_up(found, process, log)
            yield found


def test_it_loads_as_a_classifier_and_a_trainer(client: Client) -> None:
    info = client.ask("GET", "/info/").json
    model = info["models"]["ct_classification"]
    assert model["type"] == "classification"
    assert model["labels"] == {"abdomen_pelvis": 0, "head": 1, "thorax": 2}
    assert "ct_classification" in info["trainers"]


def test_it_infers_what_the_run_infers(
    client: Client, small_run: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    predict(small_run, [phantom_store.path], tmp_path)
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    image = phantom_store.series_ids[0]
    answer = client.infer("ct_classification", image)
    assert answer.status == 200, answer.body
    names = [one["label"] for one in answer.json["prediction"]]
    theirs = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows if row["series_id"] == image])
    assert [one["score"] for one in answer.json["prediction"]] == pytest.approx(theirs.mean(axis=0), abs=2e-5)


def test_it_trains_on_labels(client: Client, phantom_store: SliceStore, tmp_path: Path) -> None:
    for number, image in enumerate(phantom_store.series_ids):
        assert client.label(image, {"label": ("head", "thorax")[number % 2]}, tmp_path).status == 200
    before = client.ask("GET", "/model/info/ct_classification").json["checksum"]
    request = {"max_epochs": 1, "val_split": 0.2, "device": "cpu", "multi_gpu": False}
    assert client.ask("POST", "/train/ct_classification", body=request).status == 200
    done = client.wait_for("/train/")
    assert done["status"] == "DONE", done["details"]
    assert client.ask("GET", "/model/info/ct_classification").json["checksum"] != before
    assert client.infer("ct_classification", phantom_store.series_ids[0]).status == 200
