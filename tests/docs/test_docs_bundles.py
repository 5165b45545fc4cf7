"""Every command of the bundles' pages, in order, in this process and at smoke size; slowly also as processes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fire.parser
import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser

from tests.docs.pages import OWN, ROOT, SMALL, commands, lines, run_bundle_command, run_medssl

METHODS = [pytest.param(m, marks=pytest.mark.slow) for m in ("spark", "swav", "moco", "byol")]


def told(name: str) -> Iterator[str]:
    """The command lines of a bundle's page."""
    words = ("medssl ", "python -m ", "torchrun ")
    found = [line for line in lines(ROOT / "bundles" / name / "docs" / "README.md") if line.startswith(words)]
    assert len(found) >= 10
    assert {line.split()[3] for line in found if line.startswith("python -m monai.bundle")} == {
        "run",
        "verify_net_in_out",
        "ckpt_export",
    }
    yield from found


def demo_table(page: Path) -> list[str]:
    """The demo's closing table."""
    text = page.read_text(encoding="utf-8")
    return [line for line in text.splitlines() if re.match(r"\| (\| 9 labelled|SparK, f|from scratch|random f)", line)]


def test_the_demo_has_the_same_figures_on_both_pages() -> None:
    whole = demo_table(ROOT / "README.md")
    assert len(whole) == 5
    assert demo_table(ROOT / "bundles" / "ct_classification" / "docs" / "README.md") == whole


def configurations(desk: Path, name: str) -> None:
    (desk / "configs").unlink()
    (desk / "configs").symlink_to(ROOT / "bundles" / name / "configs")


def run_line(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(line)
    if words[0] == "medssl":
        run_medssl(words, monkeypatch)
    elif words[0] == "torchrun":  # as one process would; tests/engines/test_several_processes_run.py starts two
        assert words[:4] == ["torchrun", "--nproc_per_node=2", "-m", "monai.bundle"]
        one = ["python", "-m", *("MANY" if word == "RUN" else word for word in words[3:])]
        method = Path("configs").resolve().parent.name.removeprefix("ct_ssl_")
        pairs = [pair.split("=") for pair in (*SMALL, *OWN.get(method, []))]
        run_bundle_command([*one, *(w for key, value in pairs if key != "device" for w in (f"--{key}", value))])
    elif words[2] == "zipfile":
        shutil.unpack_archive(words[4], words[5])
    elif words[3] == "run":
        run_bundle_command(words)
    else:
        named = dict(zip((w.removeprefix("--") for w in words[4::2]), words[5::2], strict=True))
        values: dict[str, Any] = {k: fire.parser.DefaultParseValue(v) for k, v in named.items()}
        getattr(monai.bundle, words[3])(**values)


def same_as_torchscript(bundle: Path) -> None:
    """What `ckpt_export` has written computes what the bundle's network does."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    image = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    scripted = torch.jit.load(bundle / "models" / "model.ts").eval()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        expected, found = network(image), scripted(image)
    assert torch.allclose(found, expected, atol=1e-6)


# TorchScript, which MONAI's `ckpt_export` writes, is deprecated by torch without a successor in bundles.
pytestmark = pytest.mark.filterwarnings("ignore:`?torch.jit:DeprecationWarning", "ignore:`?torch.jit:FutureWarning")


@pytest.mark.parametrize("method", METHODS)
def test_pretraining_bundles_page(desk: Path, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    name = f"ct_ssl_{method}"
    configurations(desk, name)
    for line in told(name):
        shutil.rmtree(desk / "OUT", ignore_errors=True)
        run_line(line, monkeypatch)
        if "evaluate" in line:
            expected = "figures/reconstruction.png" if method == "spark" else "figures/embeddings.png"
            assert (desk / "OUT" / expected).is_file()
        elif "inference.yaml" in line and " run " in line:
            assert (desk / "OUT" / "features.parquet").is_file()
    assert (desk / "RUN/models/encoder.safetensors").is_file()
    assert (desk / "MANY/models/encoder.safetensors").is_file()
    assert (desk / "encoder.onnx").is_file()
    same_as_torchscript(desk / name)
    if method == "spark":
        for words in commands(ROOT / "docs" / "bundles.md"):
            run_medssl(words, monkeypatch)


@pytest.mark.slow
def test_classification_bundles_page(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    run_medssl(shlex.split("medssl pretrain spark --data STORE --out PRETRAINED"), monkeypatch)
    shutil.copy(desk / "PRETRAINED/models/encoder.safetensors", desk / "encoder.safetensors")
    configurations(desk, "ct_classification")
    for line in told("ct_classification"):
        shutil.rmtree(desk / "OUT", ignore_errors=True)
        run_line(line, monkeypatch)
        if "evaluate" in line:
            assert (desk / "OUT" / "metrics.json").is_file()
        elif "inference.yaml" in line and " run " in line:
            assert (desk / "OUT" / "studies.json").is_file()
    assert (desk / "MANY/models/model.pt").is_file()
    assert (desk / "classifier.onnx").is_file()
    same_as_torchscript(desk / "ct_classification")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ct_ssl_spark", "ct_classification"])
def test_bundles_pages_as_processes(desk: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    run_medssl(shlex.split("medssl pretrain spark --data STORE --out PRETRAINED"), monkeypatch)
    shutil.copy(desk / "PRETRAINED/models/encoder.safetensors", desk / "encoder.safetensors")
    configurations(desk, name)
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{binaries}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for line in told(name):
        pairs = [pair.split("=") for pair in (*SMALL, *(OWN["spark"] if "spark" in name else []))]
        small = " ".join(f"--{key} {value}" for key, value in pairs if key != "device" or "torchrun" not in line)
        line = f"{line} {small}" if "configs/train.yaml" in line and "RUN/configs" not in line else line
        line = line.replace("RUN", "MANY") if line.startswith("torchrun") else line
        done = subprocess.run(shlex.split(line), cwd=desk, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr[-3000:])
