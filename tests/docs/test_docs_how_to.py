"""The commands of the how-tos and of the methods' pages, run in order at smoke size."""

import importlib.util
import json
import logging
import math
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.load import load_into_resnet
from medssl_monai.networks.resnet import resnet_encoder
from tests.checkpoints.test_import_formats import constants, heads
from tests.docs.pages import DOCS, OWN, SMALL, blocks, commands, lines, run_bundle_command, run_medssl
from tests.ingest.test_pacs import address, files
from tests.loopback import PASSWORD, REASON, USER, WITHOUT_ORTHANC
from tests.store.object_storage import s3_server, upload

__all__ = ["address", "files"]


@pytest.mark.slow
def test_start_page(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(DOCS / "index.md")
    assert [words[1] for words in found] == ["--help", "ingest", "pretrain", "finetune", "evaluate", "predict"]
    for words in found:
        run_medssl(words, monkeypatch)
    assert (desk / "prediction").is_dir()


def test_own_dicoms(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(DOCS / "how_to" / "own_dicoms.md")
    assert len(found) == 5
    for words in found:
        run_medssl(words, monkeypatch, code=int(words[1] == "audit"))
    assert (desk / "trial.png").is_file() and (desk / "TRIAL" / "report.html").is_file()


@pytest.mark.slow
def test_object_storage(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "how_to" / "object_storage.md"
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    found = commands(page)
    assert [words[1] for words in found] == ["pretrain", "finetune", "audit"]
    (program,) = blocks(page, "python")
    with s3_server():
        upload(desk / "STORE", "thorax.store")
        for words in found:
            run_medssl(words, monkeypatch)
        capsys.readouterr()
        exec(program, {})
    assert capsys.readouterr().out == "30 (64, 64)\n"
    assert (desk / "runs" / "remote_region" / "models" / "model.pt").is_file()


@pytest.mark.slow
def test_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Folder, table and COVID-CT, of pictures of every kind; the runs follow the encoder, and refuse one of HU."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    kinds = ((".png", "L"), (".jpg", "RGB"), (".tif", "L"), (".bmp", "P"), (".png", "RGBA"))

    def picture(path: str, number: int, bright: bool = False) -> str:
        place, (ending, mode) = Path(path), kinds[number % len(kinds)]
        place.parent.mkdir(parents=True, exist_ok=True)
        grey = rng.normal(180 if bright else 80, 30, (70 + number % 7, 64 + number % 5)).clip(0, 255).astype(np.uint8)
        Image.fromarray(grey).convert(mode).save(place.with_name(place.name + ending))
        return place.name + ending

    for number in range(20):
        picture(f"PICTURES/deep/1.2.{number // 2}_{number}", number)
    rows = ["source,label,patient"]
    for number in range(40):
        name, label = f"p{number // 2}_{number}", ("normal", "bleeding")[number // 2 % 2]
        rows.append(f"table/{picture(f'table/{name}', number, number // 2 % 2 == 1)},{label},p{number // 2}")
        picture(f"CLASSES/{label}/p{number // 2}/{name}", number, number // 2 % 2 == 1)
    Path("pictures.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    for label in ("COVID", "NonCOVID"):
        for part in ("train", "val", "test"):
            names = [picture(f"COVID-CT/Images-processed/CT_{label}/{part}{label}{i}", i, i % 2 > 0) for i in range(6)]
            lists = Path("COVID-CT/Data-split", label, f"{part}CT_{label}.txt")
            lists.parent.mkdir(parents=True, exist_ok=True)
            lists.write_text("\n".join(names), encoding="utf-8")
    found = commands(DOCS / "how_to" / "pictures.md")
    assert [words[1] for words in found] == [
        "pretrain",
        "ingest",
        "pretrain",
        "export",
        *["finetune"] * 4,
        *["evaluate"] * 3,
    ]
    for words in found:
        with caplog.at_level(logging.INFO, "medssl_monai"):
            run_medssl([*words, *["warmup_epochs=0"] * (words[1] == "pretrain")], monkeypatch)
    assert "20 slices of 10 patients" in caplog.text
    assert json.loads(Path("runs/shipped/run.json").read_text(encoding="utf-8"))["settings"]["arch"] == "resnet50"
    for run in ("folders", "table", "covid"):
        settings = json.loads(Path("runs", run, "run.json").read_text(encoding="utf-8"))["settings"]
        assert [settings[key] for key in ("window", "mean", "std")] == ["picture", 0.32, 0.34], run
        assert Path("evaluation", run, "metrics.json").is_file()
    card = Path("encoder.card.md").read_text(encoding="utf-8")
    assert "8-bit pictures, per-slice range" in card
    hounsfield = ["medssl", "finetune", "--data", "CLASSES", "--config", "finetune_folders", "--out", "runs/no"]
    export_encoder(resnet_encoder("resnet18"), "wide.safetensors", metadata={"window": '"wide"'})
    run_medssl([*hounsfield, "--encoder", "wide.safetensors"], monkeypatch, code=1)


@pytest.mark.slow
def test_published_checkpoints(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "how_to" / "published_checkpoints.md"
    state = {**constants("resnet18", "model."), **heads("model.prototypes.weight")}
    torch.save({"state_dict": state}, "swav.ckpt")
    torch.save(
        constants("resnet18") | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}, "imagenet.pth"
    )
    run_medssl(["medssl", "ingest", "ARCHIVE", "--out", "STORE"], monkeypatch)
    found = commands(page)
    assert len(found) == 6
    for words in found:
        run_medssl(words, monkeypatch)
    (program,) = blocks(page, "python")
    exec(program.replace("resnet50", "resnet18"), {})
    refused = ["medssl", "finetune", "--data", "labels.csv", "--store", "STORE", "--encoder", "encoder.safetensors"]
    run_medssl([*refused, "--out", "runs/refused", "window=lung"], monkeypatch, code=1)


@pytest.mark.parametrize("method", ["spark", "swav", "moco", "byol"])
def test_methods(method: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(["medssl", "ingest", "ARCHIVE", "--out", "STORE"], monkeypatch)
    (words,) = commands(DOCS / "methods" / f"{method}.md")
    assert words[2] == method
    run_medssl(words, monkeypatch)
    assert (desk / "RUN" / "models" / "encoder.safetensors").is_file()


def launched(page: Path) -> list[list[str]]:
    return [shlex.split(line) for line in lines(page) if line.startswith("torchrun ")]


def test_several_gpus_as_one_process_would(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(["medssl", "ingest", "ARCHIVE", "--out", "STORE"], monkeypatch)
    found = launched(DOCS / "how_to" / "several_gpus.md")
    assert len(found) == 2
    for words in found:
        assert words[:4] == ["torchrun", "--nproc_per_node=2", "-m", "medssl_monai"]
        run_medssl(["medssl", *words[4:]], monkeypatch)


@pytest.mark.slow
@pytest.mark.ddp
def test_several_gpus_as_two_processes(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(["medssl", "ingest", "ARCHIVE", "--out", "STORE"], monkeypatch)
    small = [pair for pair in SMALL if not pair.startswith("device")]
    for words in launched(DOCS / "how_to" / "several_gpus.md"):
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", *words[1:], *small]
        launch += OWN["spark"] if "pretrain" in words else []
        ended = subprocess.run(launch, capture_output=True, text=True, timeout=500)
        assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.pacs
@pytest.mark.skipif(WITHOUT_ORTHANC, reason=REASON)
def test_pacs(address: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "how_to" / "pacs.md"
    monkeypatch.setenv("MEDSSL_DICOMWEB_USER", USER)
    monkeypatch.setenv("MEDSSL_DICOMWEB_PASSWORD", PASSWORD)
    found = commands(page, "console")
    assert len(found) == 2
    for words in found:
        assert words[2] == "https://pacs.hospital.example/dicom-web"
        run_medssl([*words[:2], address, *words[3:]], monkeypatch)
    (words,) = commands(page)
    run_medssl(words, monkeypatch)


@pytest.mark.slow
def test_tutorial(phantom_labels: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the phantom in place of the samples, which need a network."""
    found = commands(DOCS / "tutorial.md")
    verbs = ["sample-data", "ingest", "pretrain", "export", "finetune", "finetune", "ingest", "audit", "ingest"]
    assert [words[1] for words in found] == [*verbs, "evaluate", "evaluate", "predict"]
    table = phantom_labels.read_text(encoding="utf-8")
    for part, numbers in (("train", (1, 2, 3)), ("test", (4,)), ("unseen", (5,))):
        for number in numbers:
            shutil.copytree(desk / "ARCHIVE" / f"phantom-00{number}", desk / "samples" / part / f"phantom-00{number}")
            table = table.replace(f"\nphantom-00{number}/", f"\n{part}/phantom-00{number}/")
    (desk / "samples" / "labels.csv").write_text(table, encoding="utf-8")
    for words in found[1:]:
        demo = ["warmup_epochs=0"] if words[1] == "pretrain" else ["frozen_epochs=0"] if words[1] == "finetune" else []
        run_medssl([*words, *demo], monkeypatch)
    assert (desk / "sheet.png").is_file()
    for out in ("evaluation/metrics.json", "evaluation-scratch/metrics.json", "prediction/predictions.csv"):
        assert (desk / out).is_file(), out


def test_own_loop(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every block by itself, smaller; each epoch of the plain loop sees other views."""
    run_medssl(["medssl", "ingest", "ARCHIVE", "--out", "STORE"], monkeypatch)
    programs = blocks(DOCS / "how_to" / "own_loop.md", "python")
    assert len(programs) == 3
    smaller = {
        "resnet50": "resnet18",
        "image_size=224": "image_size=64",
        "batch_size=64": "batch_size=6",
        "num_workers=4": "num_workers=0",
        "epochs, steps = 100": "epochs, steps = 2",
        "max_epochs=100": "max_epochs=2",
        "queue_length=4096": "queue_length=12",
        "loss.item():.3f": "loss.item():.6f",  # three digits of two epochs may be equal by chance
    }
    for program in programs:
        for large, small in smaller.items():
            program = program.replace(large, small)
        exec(program, {})
    told = capsys.readouterr().out
    assert len(set(re.findall(r"loss \d+\.\d{6}", told))) == 2, "MoCo"
    assert re.search(r"accuracy on the test slices: [01]\.\d{3}", told)
    assert len(set(re.findall(r"'loss': -?\d\.\d+", told))) == 2, "BYOL"
    found = load_into_resnet(torchvision.models.resnet18(), "moco.safetensors")
    assert found.arch == "resnet18"
    words = ["medssl", "finetune", "--data", "labels.csv", "--store", "STORE", "--encoder", "moco.safetensors"]
    run_medssl([*words, "--out", "runs/region"], monkeypatch)
    run_medssl(["medssl", "import-weights", "byol.pt", "--out", "byol.safetensors"], monkeypatch)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")
def test_federated(desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two sites in one process, the averaged encoder, and a site that fine-tunes it."""
    for source, store in (("ARCHIVE", "STORE_NORTH"), ("NEW_STUDY", "STORE_SOUTH")):
        run_medssl(["medssl", "ingest", source, "--out", store], monkeypatch)
    (desk / "STORE").symlink_to("STORE_NORTH")
    page = DOCS / "how_to" / "federated.md"
    pre_training, classifier = blocks(page, "python")
    (command,) = commands(page)
    small = '"image_size": 64, "num_workers": 0, "device": "cpu", "epoch_length": 1, "batch_size": 6'
    names: dict[str, Any] = {}
    pre_training = pre_training.replace('"batch_size": 64', f'"arch": "resnet18", "queue_length": 12, {small}')
    exec(pre_training.replace("rounds, local_epochs = 100, 1", "rounds, local_epochs = 2, 1"), names)
    assert [site.trainer.state.iteration for site in names["sites"]] == [2, 2]
    run_medssl(command, monkeypatch)
    assert load_into_resnet(torchvision.models.resnet18(), "encoder.safetensors").metadata["window"] == '"wide"'
    exec(classifier.replace('"max_epochs": 70', f'"max_epochs": 1, {small}'), names)
    assert re.search(r"balanced accuracy on the site's test slices: [01]\.\d{3}", capsys.readouterr().out)


@pytest.mark.slow
def test_segmentation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """From the phantom to Dice, with an encoder and from scratch, in MONAI's U-Net and the other library's."""
    monkeypatch.chdir(tmp_path)
    page = DOCS / "how_to" / "segmentation.md"
    shutil.copy(page.with_suffix(".yaml"), tmp_path)
    Path("unet.yaml").write_text(blocks(page, "yaml")[0], encoding="utf-8")
    found = commands(page)
    assert [words[1] for words in found] == ["phantom", "ingest", "pretrain", "-m", "-m", "-m"]
    found[0] = [{"100": "5", "16": "6"}.get(word, word) for word in found[0]]
    smaller = {"slices_per_volume": 2, "max_epochs": 1, "device": "cpu"}
    smp = importlib.util.find_spec("segmentation_models_pytorch") is not None
    for words in found[:3]:
        run_medssl([*words, *["warmup_epochs=0"] * (words[1] == "pretrain")], monkeypatch)
    for words in found[3 : 6 if smp else 5]:
        run_bundle_command(words, **smaller)
        out = Path(words[words.index("--output_dir") + 1])
        dice = json.loads((out / "dice.json").read_text(encoding="utf-8"))
        organs = ["lungs", "heart", "liver", "spleen", "kidneys", "bladder", "brain"]
        assert list(dice) == ["mean_dice", *organs]
        assert all(0 <= dice[organ] <= 1 or math.isnan(dice[organ]) for organ in dice)
        assert (out / "models" / "model.pt").is_file()
    (program,) = blocks(page, "python")
    exec(program, {})
    assert "120 tensors matched" in capsys.readouterr().out
