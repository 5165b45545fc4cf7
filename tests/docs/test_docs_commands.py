"""Every command of the README, the page on pre-training and the bundles' READMEs, run in order at smoke size."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from medssl_monai.samples.phantom import write_phantom
from tests.docs.pages import ROOT, SMALL, blocks, commands, run_bundle_command, run_medssl


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
    small: dict[str, Any] = {key: yaml.safe_load(value) for key, value in (pair.split("=") for pair in SMALL)}
    smaller = program[1].replace('"runs/spark")', '"runs/python_spark", **small, decoder_width=32)')
    smaller = smaller.replace('"runs/region",', '"runs/python_region", **small,')
    exec(smaller, {"small": small})
    assert (desk / "runs" / "python_region" / "models" / "model.pt").is_file()


@pytest.mark.slow
def test_pretraining_page(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    write_phantom(desk / "SOUTH", patients=1, seed=9, size=64, slices=6)
    run_medssl(shlex.split("medssl ingest SOUTH --out OTHER_STORE"), monkeypatch)
    page = ROOT / "docs" / "pretraining.md"
    found = commands(page)
    assert len(found) == 6
    for words in found:
        run_medssl([*words, *(["warmup_epochs=0"] if "small" in words else [])], monkeypatch)
    for name in ("SMALL_RUN", "THINNED_RUN"):
        assert (desk / name / "models" / "encoder.safetensors").is_file()
    assert (desk / "RUN" / "logs" / "collapse.jsonl").is_file()
    assert all((desk / name / "logs" / "measures.jsonl").is_file() for name in ("RUN", "SMALL_RUN"))
    # torchrun's command, as one process would run it: tests/engines/test_several_processes_run.py starts two.
    (launched,) = [line for block in blocks(page) for line in block.splitlines() if line.startswith("torchrun ")]
    (desk / "configs").unlink()
    (desk / "configs").symlink_to(ROOT / "configs")
    words = shlex.split(launched.replace("torchrun --nproc_per_node=2 -m", "python -m").replace("RUN", "OTHER"))
    run_bundle_command(
        [*words, *(w for pair in (*SMALL, "decoder_width=32") for w in ("--" + pair.split("=")[0], pair.split("=")[1]))]
    )


@pytest.mark.slow
def test_bundles_run_as_a_process_of_their_own_from_anywhere(phantom_labels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", "run", "--config_file"]
    small = [word for pair in SMALL for word in (f"--{pair.split('=')[0]}", pair.split("=")[1])]
    spark = [str(ROOT / "bundles/ct_ssl_spark/configs/train.yaml"), "--dataset_dir", str(phantom_labels.parent)]
    where = ["--output_dir", str(tmp_path / "run"), "--decoder_width", "32"]
    subprocess.run([*command, *spark, *where, *small], check=True, cwd=tmp_path, capture_output=True)
    assert (tmp_path / "run" / "models" / "encoder.safetensors").is_file()
