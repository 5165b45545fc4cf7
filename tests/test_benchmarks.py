"""The benchmarks fit the package; the script for a GPU runs from end to end, on a CPU at toy size."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("script", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_what_a_benchmark_imports_of_the_package_is_there(script: Path) -> None:
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("medssl_monai"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="needs the extra 'benchmarks'")
def test_everything_for_a_gpu_runs_on_a_cpu(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "gpu_all.py"
    command = [sys.executable, str(script), "--device", "cpu", "--quick", "--out", str(tmp_path / "results.txt")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    written = (tmp_path / "results.txt").read_text(encoding="utf-8")
    assert "0 failures" in written and "left out" not in written
    for name in (
        "check_views",
        "| ours, compiled + graph |",
        "roofline of",
        "| ms a step |",
        "ours / floor",
        "PIL reference / ours",
        "the loader's share",
        "with recompute",
    ):
        assert name in written, name


@pytest.mark.parametrize("mixed", [0, 1])
def test_headers_of_many_files_are_simulated(mixed: int) -> None:
    script = ROOT / "benchmarks" / "many_headers.py"
    words = ["--one", "450", "--slices", "50", "--mixed", str(mixed)]
    run = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["series"] == 9 and 0 < found["before"] <= found["peak"]


@pytest.mark.slow
def test_traffic_is_counted_without_a_device() -> None:
    script = ROOT / "benchmarks" / "traffic.py"
    toy = ["--arch", "resnet18", "--batch", "2", "--size", "64"]
    run = subprocess.run([sys.executable, str(script), *toy], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    found = [line.split(":")[0] for line in run.stdout.splitlines() if "of which convolutions" in line]
    assert found == ["spark, visible cells", "spark, under a mask", "moco", "byol", "swav"]
