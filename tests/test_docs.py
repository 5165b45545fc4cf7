"""Every command in the README and in the docs, run in order at smoke size; every link leads somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import fire.parser
import pytest
from monai.bundle import ConfigWorkflow

from medssl_monai.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += sorted((ROOT / "bundles").glob("*/docs/README.md"))
SMALL = ["arch=resnet18", "image_size=64", "batch_size=6", "num_workers=0", "max_epochs=1", "device=cpu"]


def blocks(page: Path) -> list[str]:
    """Fenced blocks that hold commands."""
    return re.findall(r"```(?:sh)?\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    lines = [line.split(" # ")[0].strip() for block in blocks(page) for line in block.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(("medssl ", "python -m monai.bundle "))]


@pytest.fixture
def desk(phantom_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the docs speak of: ARCHIVE, NEW_STUDY, labels.csv, the bundles."""
    shutil.copytree(phantom_labels.parent, tmp_path / "ARCHIVE")
    shutil.copytree(phantom_labels.parent / "phantom-005", tmp_path / "NEW_STUDY")
    (tmp_path / "FOLDER").symlink_to("NEW_STUDY")
    table = phantom_labels.read_text(encoding="utf-8").replace("phantom-", "ARCHIVE/phantom-")
    (tmp_path / "labels.csv").write_text(re.sub(r"ARCHIVE/(phantom-\d+),(\w+)$", r"\1,\2", table, flags=re.M))
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    (tmp_path / "configs").symlink_to(ROOT / "bundles" / "ct_ssl_spark" / "configs")
    (tmp_path / "FILE.yaml").write_text("seed: 3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_medssl(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    small = [*SMALL, "decoder_width=32"] if words[1] == "pretrain" else SMALL if words[1] == "finetune" else []
    monkeypatch.setattr(sys, "argv", [*words, *small])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code, words


def run_bundle_command(words: list[str]) -> None:
    """``python -m monai.bundle run`` without its process and its logging, which would outlive the test."""
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    values: dict[str, Any] = dict(zip((w.removeprefix("--") for w in words[4::2]), words[5::2], strict=True))
    values = {k: fire.parser.DefaultParseValue(v) if k != "config_file" else v for k, v in values.items()}
    files = fire.parser.DefaultParseValue(values.pop("config_file"))
    small = dict(pair.split("=") for pair in SMALL)
    first = Path(files if isinstance(files, str) else files[0])
    if first.name == "train.yaml" and not isinstance(files, list):
        values |= {k: fire.parser.DefaultParseValue(v) for k, v in small.items()}
        if "spark" in str(first.resolve()):
            values["decoder_width"] = 32
        elif "swav" in str(first.resolve()):
            values |= {"counts": [2, 1], "queue_length": 12, "queue_start_epoch": 0}
    workflow = ConfigWorkflow(config_file=files, workflow_type="train", logging_file=False, **values)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


def test_readme_commands(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(ROOT / "README.md")
    assert [words[1] for words in found if words[0] == "medssl"] == [
        "ingest",
        "pretrain",
        "export",
        "finetune",
        "evaluate",
        "predict",
    ]
    for words in found:
        if words[0] == "medssl":
            run_medssl(words, monkeypatch)
        else:
            run_bundle_command([w.replace("runs/spark", "runs/monai") for w in words])
    for file in ("sheet.png", "encoder.safetensors", "evaluation/metrics.json", "prediction/studies.json"):
        assert (desk / file).is_file(), file
    assert (desk / "runs" / "monai" / "models" / "encoder.safetensors").is_file()
    program = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert program is not None
    exec(program[1].replace("resnet50", "resnet18"), {})


def test_pretraining_page(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    page = ROOT / "docs" / "pretraining.md"
    found = commands(page)
    assert len(found) == 1
    run_medssl(found[0], monkeypatch)
    assert (desk / "RUN" / "logs" / "collapse.jsonl").is_file()
    # torchrun's command, as one process would run it: tests/engines/test_several_processes_run.py starts two.
    (launched,) = [line for block in blocks(page) for line in block.splitlines() if line.startswith("torchrun ")]
    (desk / "configs").unlink()
    (desk / "configs").symlink_to(ROOT / "configs")
    words = shlex.split(launched.replace("torchrun --nproc_per_node=2 -m", "python -m").replace("RUN", "OTHER"))
    run_bundle_command(
        [*words, *(w for pair in (*SMALL, "decoder_width=32") for w in ("--" + pair.split("=")[0], pair.split("=")[1]))]
    )


def test_bundle_commands(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    for method in ("swav", "moco", "byol", "spark"):
        (desk / "configs").unlink()
        (desk / "configs").symlink_to(ROOT / "bundles" / f"ct_ssl_{method}" / "configs")
        for words in commands(ROOT / "bundles" / f"ct_ssl_{method}" / "docs" / "README.md"):
            run_bundle_command(words)
        spark = ("metrics.json", "figures/reconstruction.png")
        for file in ("features.parquet", *(spark if method == "spark" else ("figures/embeddings.png",))):
            assert (desk / "OUT" / file).is_file(), file
        shutil.rmtree(desk / "OUT")
        if method != "spark":
            shutil.rmtree(desk / "RUN")
    shutil.copy(desk / "RUN" / "models" / "encoder.safetensors", desk / "encoder.safetensors")
    shutil.rmtree(desk / "RUN")
    (desk / "configs").unlink()
    (desk / "configs").symlink_to(ROOT / "bundles" / "ct_classification" / "configs")
    for words in commands(ROOT / "bundles" / "ct_classification" / "docs" / "README.md"):
        run_bundle_command(words)
        if words[-1] == "OUT":
            assert (desk / "OUT" / "studies.json").is_file()
            shutil.rmtree(desk / "OUT")


@pytest.mark.slow
def test_bundles_run_as_a_process_of_their_own_from_anywhere(phantom_labels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
    small = [word for pair in SMALL for word in (f"--{pair.split('=')[0]}", pair.split("=")[1])]
    spark = [str(ROOT / "bundles/ct_ssl_spark/configs/train.yaml"), "--dataset_dir", str(phantom_labels.parent)]
    where = ["--output_dir", str(tmp_path / "run"), "--decoder_width", "32"]
    subprocess.run([*command, *spark, *where, *small], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "run" / "models" / "encoder.safetensors").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z][a-z-]+)(?: |`|$)", "\n".join(blocks(page)), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
