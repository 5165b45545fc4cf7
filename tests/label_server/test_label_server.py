"""The real server in its own process, walked by plain HTTP: a folder of DICOM studies."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medssl_monai.classify.predict import predict
from medssl_monai.ingest import SliceStore
from tests.label_server.server import LABEL_PYTHON, REASON, ROOT, WITHOUT_ENVIRONMENT, Client, running_server
from tests.loopback import free_port

pytestmark = [
    pytest.mark.label,
    pytest.mark.skipif(WITHOUT_ENVIRONMENT, reason=REASON),
    pytest.mark.timeout(1800),
]

SMALL = {"max_epochs": 1, "batch_size": 6, "frozen_epochs": 0, "val_split": 0.4}


def read_nifti(file: Path) -> Any:
    return nibabel.load(file)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("label") / "work"


@pytest.fixture(scope="module")
def client(phantom_labels: Path, small_run: Path, work: Path) -> Iterator[Client]:
    with running_server(str(phantom_labels.parent), work, "--model", str(small_run)) as found:
        yield found


def test_info(client: Client) -> None:
    info = client.ask("GET", "/info/").json
    assert set(info["models"]) == {"classification", "evidence"}
    assert info["models"]["classification"]["labels"] == {"abdomen_pelvis": 0, "head": 1, "thorax": 2}
    assert set(info["trainers"]) == {"finetuning", "pretraining"}
    assert set(info["strategies"]) == {"uncertain", "diverse", "unlike_labelled", "random"}
    assert info["datastore"]["total"] == 5
    assert client.ask("GET", "/").status == 200


def test_probabilities_equal_the_bundles(client: Client, work: Path, small_run: Path, tmp_path: Path) -> None:
    """`predict.yaml`, slice by slice; by the image's name, by its file, and by one slice."""
    image = client.images()[0]
    answer = client.infer("classification", image).json
    predict(small_run, [work / "store"], tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["series_id"] == image]
    names = list(answer["label_names"])
    theirs = np.array([[float(row[f"p_{name}"]) for name in names] for row in rows])
    assert [one["scores"] for one in answer["slices"]] == pytest.approx(theirs, abs=2e-5)
    assert [one["score"] for one in answer["prediction"]] == pytest.approx(theirs.mean(axis=0), abs=2e-5)
    downloaded = tmp_path / "study.nii.gz"
    downloaded.write_bytes(client.ask("GET", f"/datastore/image?image={image}").body)
    uploaded = client.ask("POST", "/infer/classification", files={"file": downloaded}).json
    assert uploaded["slices"] == answer["slices"]
    one = client.infer("classification", image, slice=3).json
    assert one["slices"] == [answer["slices"][3]]
    assert not list((work / "tmp").glob("*.nii.gz")), "an upload is gone once it is answered"


def test_evidence_is_an_image_on_the_study(client: Client, tmp_path: Path) -> None:
    image = client.images()[0]
    for name, path in (("study", f"/datastore/image?image={image}"), ("evidence", "")):
        answer = client.ask("GET", path) if path else client.ask("POST", f"/infer/evidence?image={image}&output=image")
        assert answer.status == 200
        (tmp_path / f"{name}.nii.gz").write_bytes(answer.body)
    study, evidence = (read_nifti(tmp_path / f"{name}.nii.gz") for name in ("study", "evidence"))
    assert study.shape == evidence.shape
    assert np.allclose(study.affine, evidence.affine)
    assert set(np.unique(np.asarray(evidence.dataobj))) <= {0, 1}
    assert np.asarray(evidence.dataobj).any()


def test_wrong_input(client: Client, phantom_labels: Path, tmp_path: Path) -> None:
    image = client.images()[0]
    assert client.infer("classification", "nobody").status == 404
    assert client.infer("nothing", image).status == 404
    for path in ("/etc/passwd", str(phantom_labels), "../../etc/passwd"):
        refused = client.infer("classification", path)
        assert refused.status == 404
        assert b"root:" not in refused.body
    assert client.ask("POST", f"/infer/classification?image={image}", form={"params": "{oops"}).status == 400
    assert client.infer("classification", image, slice=99).status == 400
    assert client.infer("evidence", image, **{"class": "liver"}).status == 400
    text = client.ask("POST", "/infer/classification", files={"file": phantom_labels})
    assert text.status == 422
    assert "neither DICOM nor a volume" in text.json["detail"]
    assert str(phantom_labels.parent) not in text.json["detail"]
    assert client.label(image, {"label": "$__import__('os')"}, tmp_path).status == 400
    assert client.label(image, {"label": "head"}, tmp_path, tag="../../x").status == 400
    assert client.label("nobody", {"label": "head"}, tmp_path).status == 404
    assert client.ask("GET", f"/datastore/label?label={image}&tag=none").status == 400
    assert client.ask("POST", "/train/nothing", body={}).status == 404
    assert client.ask("POST", "/batch/infer/nothing", body={}).status == 404
    assert client.ask("POST", "/activelearning/nothing").status == 404


def test_closed_doors(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(b"weights")
    for method, path in (
        ("PUT", "/model/classification"),
        ("DELETE", "/model/classification"),
        ("POST", "/reload"),
        ("GET", "/logs/"),
        ("GET", "/datastore/dataset"),
        ("GET", "/proxy/dicom/qido/studies"),
    ):
        answer = client.ask(method, path, files={"file": file} if method == "PUT" else None)
        assert answer.status == 403, path
    assert client.ask("GET", "/info/", headers={"Host": "evil.example"}).status == 400
    import urllib.request

    request = urllib.request.Request(f"{client.address}/info/", headers={"Origin": "https://evil.example"})
    with urllib.request.urlopen(request) as response:
        assert response.headers["access-control-allow-origin"] is None


def test_two_clients_at_once(client: Client) -> None:
    images = client.images()
    alone = {image: client.infer("classification", image).json["prediction"] for image in images}
    found: list[tuple[str, object]] = []

    def ask() -> None:
        for image in images:
            found.append((image, client.infer("classification", image, slice=0).json["prediction"]))
            found.append((image, client.infer("classification", image).json["prediction"]))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * len(images)
    for image in images:
        answers = [answer for name, answer in found if name == image]
        assert answers.count(alone[image]) == 2


def test_batch_inference_keeps_its_answers_apart_from_labels(client: Client) -> None:
    started = client.ask("POST", "/batch/infer/classification?images=all", body={"label_tag": "original"})
    assert started.status == 200
    assert client.wait_for("/batch/infer")["status"] == "DONE"
    state = client.ask("GET", "/datastore/").json
    assert state["label_tags"] == {"original": 5}
    assert state["completed"] == 0, "a prediction is no label"
    image = client.images()[0]
    kept = client.ask("GET", f"/datastore/label/info?label={image}&tag=original").json
    assert kept["prediction"] == client.infer("classification", image).json["prediction"]


def test_active_learning(client: Client) -> None:
    scores = {}
    for image in client.images():
        p = np.array([one["score"] for one in client.infer("classification", image).json["prediction"]])
        scores[image] = float(-(p * np.log(p)).sum())
    unsure = client.ask("POST", "/activelearning/uncertain").json
    assert unsure["id"] == max(scores, key=lambda image: scores[image])
    assert unsure["considered"] == unsure["unlabelled"] == 5
    suggested = [client.ask("POST", "/activelearning/diverse").json["id"] for _ in range(3)]
    assert len(set(suggested)) == 3, "what was suggested is covered"
    assert client.ask("POST", "/activelearning/random").json["id"] in scores


def test_the_readers_form(client: Client, tmp_path: Path) -> None:
    """Every strategy without the skipped ones; a class is stored as one by REST, until it is removed."""
    assert b"Give classes" in client.ask("GET", "/form/").body
    assert client.ask("GET", "/form/", headers={"Host": "evil.example"}).status == 400
    start = client.ask("GET", "/form/start").json
    assert set(start["strategies"]) == {"uncertain", "diverse", "unlike_labelled", "random"}
    images = client.images()
    for strategy in start["strategies"]:
        skipped: list[str] = []
        while (shown := client.ask("POST", "/form/next", body={"strategy": strategy, "skipped": skipped}).json)[
            "series"
        ]:
            skipped.append(shown["series"])
        assert sorted(skipped) == images, strategy
        assert client.ask("POST", f"/activelearning/{strategy}").status == 200
    first, second = images[:2]
    shown = client.ask("GET", f"/form/series?series={first}").json
    assert shown["classes"] == ["abdomen_pelvis", "head", "thorax"]
    assert client.ask("GET", f"/form/slice?series={first}&position=0").body.startswith(b"\x89PNG")
    assert client.label(second, {"label": "thorax"}, tmp_path).status == 200
    assert client.ask("PUT", "/form/class", body={"series": first, "label": "thorax", "before": None}).status == 200
    stored = [client.ask("GET", f"/datastore/label/info?label={one}&tag=final").json for one in (first, second)]
    for image, one in zip((first, second), stored, strict=True):
        assert abs(one.pop("ts") - time.time()) < 500
        assert one.pop("name") == f"{image}.json"
    assert stored[0] == stored[1]
    for image in (first, second):
        sent = {"series": image, "label": None, "before": {"label": "thorax"}}
        assert client.ask("PUT", "/form/class", body=sent).status == 200
        assert client.ask("PUT", "/form/class", body=sent).status == 409
    assert client.ask("GET", "/datastore/").json["completed"] == 0


def test_labels_then_training_then_restart(
    client: Client, work: Path, phantom_labels: Path, small_run: Path, tmp_path: Path
) -> None:
    """Labels by REST; a training that is stopped changes nothing; one that ends is served; all survives a restart."""
    assert client.ask("POST", "/train/finetuning", body=SMALL).status == 400
    images = client.images()
    for number, image in enumerate(images[:-1]):
        assert client.label(image, {"label": ("upper", "lower")[number % 2]}, tmp_path).status == 200
    assert client.label(images[0], {"label": "lower", "slices": {"5": "upper"}}, tmp_path).status == 200
    assert client.ask("GET", "/datastore/").json["completed"] == 4
    last = client.ask("POST", "/activelearning/unlike_labelled").json
    assert last["id"] == images[-1], "the only one without a label"
    before = client.ask("GET", "/model/info/classification").json["checksum"]

    assert client.ask("POST", "/train/finetuning", body={**SMALL, "max_epochs": 10000}).status == 200
    assert client.ask("POST", "/train/finetuning", body=SMALL).status == 429, "one at a time"
    deadline = time.monotonic() + 500
    while not any("fine-tuning:" in line for line in client.ask("GET", "/train/").json.get("details", [])):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert client.ask("DELETE", "/train/").json["status"] == "STOPPED"
    assert client.ask("GET", "/model/info/classification").json["checksum"] == before

    assert client.ask("POST", "/train/finetuning", body=SMALL).status == 200
    done = client.wait_for("/train/")
    assert done["status"] == "DONE", done["details"]
    after = client.ask("GET", "/model/info/classification").json["checksum"]
    assert after != before
    answer = client.infer("classification", images[0]).json
    assert list(answer["label_names"]) == ["lower", "upper"]
    assert client.ask("GET", "/info/").json["train_stats"]["finetuning"]["classes"] == ["lower", "upper"]
    assert len(list((work / "runs").iterdir())) == 1, "the training that was stopped leaves nothing"
    assert (small_run / "models" / "model.pt").is_file()

    with running_server(str(phantom_labels.parent), work, "--model", str(small_run)) as again:
        assert again.ask("GET", "/datastore/").json["completed"] == 4
        label = again.ask("GET", f"/datastore/label/info?label={images[0]}&tag=final").json
        assert (label["label"], label["slices"]) == ("lower", {"5": "upper"})
        assert again.ask("GET", "/model/info/classification").json["checksum"] == after
        assert again.infer("classification", images[0]).json["prediction"] == answer["prediction"]


def test_pretraining_on_all_studies_feeds_the_next_training(client: Client, work: Path, tmp_path: Path) -> None:
    small = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "max_epochs": 1, "decoder_width": 32}
    assert client.ask("POST", "/train/pretraining", body={"method": "spark", **small}).status == 200
    done = client.wait_for("/train/")
    assert done["status"] == "DONE", done["details"]
    run = (work / "models" / "pretrained").resolve()
    assert (run / "models" / "encoder.safetensors").is_file()
    for number, image in enumerate(client.images()):
        client.label(image, {"label": ("upper", "lower")[number % 2]}, tmp_path)
    request = {**SMALL, "start_from": "pretrained"}
    assert client.ask("POST", "/train/finetuning", body=request).status == 200
    done = client.wait_for("/train/")
    assert done["status"] == "DONE", done["details"]


def test_an_uploaded_study_joins_the_others(client: Client, work: Path, tmp_path: Path) -> None:
    image = client.images()[0]
    volume = read_nifti(work / "images" / f"{image}.nii.gz")
    make: Any = nibabel.Nifti1Image
    other = make(np.asarray(volume.dataobj)[::-1].copy(), volume.affine)
    nibabel.save(other, tmp_path / "planted-name.nii.gz")
    file = {"file": tmp_path / "planted-name.nii.gz"}
    added = client.ask("PUT", "/datastore/image?image=planted-name", files=file).json["image"]
    assert added in client.images()
    by_name, by_id = (client.infer("classification", name).json["prediction"] for name in ("planted-name", added))
    assert by_name == by_id
    assert not [p for p in work.rglob("*") if "planted" in p.name]
    assert client.label("planted-name", {"label": "upper"}, tmp_path).status == 200
    assert client.ask("GET", f"/datastore/label/info?label={added}&tag=final").json["label"] == "upper"


def test_the_pages_requests(client: Client, tmp_path: Path) -> None:
    """Every curl command of docs/monai_label.md that does not train, in order."""
    page = (ROOT / "docs" / "monai_label.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) if "curl" in block]
    assert len(blocks) == 3
    script = "".join(blocks).replace("http://127.0.0.1:8000", client.address).replace("curl ", "curl --fail -sS ")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert read_nifti(tmp_path / "evidence.nii.gz").shape == read_nifti(tmp_path / "study.nii.gz").shape
    assert '"slices":{"5":"head"}' in done.stdout


def test_a_bare_encoder_is_refused_at_the_start(phantom_labels: Path, small_run: Path, tmp_path: Path) -> None:
    import torch

    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    state = torch.load(run / "models" / "model.pt", weights_only=True)
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, run / "models" / "model.pt")
    command = [sys.executable, "-m", "medssl_monai", "label-serve", "--studies", str(phantom_labels.parent)]
    command += ["--model", str(run), "--work", str(tmp_path / "w"), "--port", str(free_port())]
    found = subprocess.run([*command, "--python", str(LABEL_PYTHON)], capture_output=True, text=True)
    assert found.returncode == 1
    assert "fc.weight" in found.stderr
    remote = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True)
    assert remote.returncode == 1
    assert "no passwords" in remote.stderr


def test_what_is_kept_names_nobody(work: Path) -> None:
    """Series and patients are pseudonyms."""
    store = SliceStore(work / "store")
    assert all(one.startswith("s") and len(one) >= 17 for one in store.series_ids)
    texts = b"".join(p.read_bytes() for p in (work / "records").rglob("*.json"))
    assert b"phantom-0" not in texts
