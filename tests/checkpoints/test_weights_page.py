"""Every command and the program of docs/weights.md, run on small files of the same kinds."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.formats import FORMATS
from medssl_monai.cli import audit, export, import_weights
from medssl_monai.ingest import build_store
from medssl_monai.networks.classifier import classifier
from medssl_monai.networks.resnet import resnet_encoder
from tests.checkpoints.test_import_formats import constants, heads
from tests.ingest.dicom_fixtures import KEY, anatomy, write_series

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "weights.md").read_text(encoding="utf-8")
NO_ONNX = not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


def commands() -> list[list[str]]:
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    lines = [line.split(" # ")[0].strip() for line in blocks.splitlines()]
    lines += re.findall(r"\| `(medssl [^`]+)` \|", PAGE)
    return [shlex.split(line) for line in lines if line]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)

    def r18(prefix: str) -> dict[str, Any]:
        return constants("resnet18", prefix)

    torch.save({"state_dict": {**r18("model."), **heads("model.prototypes.weight")}}, "swav.ckpt")
    torch.save({"state_dict": {**r18("encoder_q."), **r18("encoder_k."), **heads("queue")}}, "moco.ckpt")
    torch.save({"state_dict": {**r18("online_network.encoder."), **heads("online_network.projector.w")}}, "byol.ckpt")
    torch.save({"arch": "resnet18", "is_pretrain": False, "module": r18("")}, "spark.pth")
    torch.save({"arch": "resnet18", "module": r18("sparse_encoder.sp_cnn.")}, "still_pretraining.pth")
    header = {"method": "spark", "window": '"wide"', "mean": "0.25", "std": "0.25"}
    encoder = resnet_encoder("resnet18")
    export_encoder(encoder, "runs/spark/models/encoder.safetensors", metadata=header)
    for store, patient in (("STORE", 10), ("TEST_STORE", 310)):
        write_series(tmp_path / f"dicom{patient}", anatomy(patient, 3), series=store)
        build_store([tmp_path / f"dicom{patient}"], store, key=KEY, progress=False)
    Path("runs/classifier/models").mkdir(parents=True)
    torch.save(classifier("resnet18", 2).state_dict(), "runs/classifier/models/model.pt")
    write_json(Path("runs/classifier/run.json"), {"bundle": "ct_classification", "settings": {"classes": ["a", "b"]}})
    return tmp_path


def test_every_command_and_the_program(desk: Path) -> None:
    app = typer.Typer()
    app.command("import-weights")(import_weights.run)
    app.command("export")(export.run)
    app.command("audit")(audit.run)
    found = commands()
    assert len(found) == 21
    for words in found:
        if words[1] == "finetune" or (NO_ONNX and "onnx" in words):
            continue  # the README's test runs the one; the other needs its extra
        result = CliRunner().invoke(app, words[1:])
        assert result.exit_code == 0, (words, result.output, result.exception)
        assert (desk / words[words.index("--out") + 1]).exists()
    program = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert program is not None
    exec(program[1], {})


def test_every_format_is_on_the_page() -> None:
    table = PAGE[PAGE.index("| `--from` | format |") : PAGE.index("Without `--from`")]
    assert {form.name for form in FORMATS} | {"prefix:WORDS."} == set(
        re.findall(
            r"`([a-z:-]+(?:WORDS\.)?)`(?=,| \|)",
            "\n".join(row.split("|")[1] + "|" for row in table.splitlines()[2:] if row),
        )
    )


def test_the_report_can_be_read_by_a_program(desk: Path) -> None:
    app = typer.Typer()
    app.command()(import_weights.run)
    words = ["moco.ckpt", "--out", "out.safetensors", "--arm", "key", "--json", "--report", "told.json"]
    result = CliRunner().invoke(app, words)
    assert '"arm": "key"' in result.output and (desk / "told.json").is_file()
    refused = CliRunner().invoke(app, ["moco.ckpt", "--out", "out.safetensors", "--from", "byol"])
    assert "no encoder in the format byol" in str(refused.exception)
