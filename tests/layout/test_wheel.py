"""What a user gets from an index: the wheel and the sdist carry transforms, bundles, configurations and encoders."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def contents(root: Path) -> set[str]:
    """Files that must be carried, as paths inside the installed package."""
    wanted = {f"transforms/{p.name}" for p in (root / "transforms").glob("*.py")}
    wanted |= {f"configs/{p.relative_to(root / 'configs')}" for p in (root / "configs").rglob("*.yaml")}
    wanted |= {f"encoders/{p.name}" for p in (root / "encoders").iterdir()}
    for path in (root / "bundles").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            wanted.add(f"bundles/{path.relative_to(root / 'bundles')}")
    return wanted


@pytest.mark.slow
def test_wheel_and_sdist_carry_everything(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        inside = {n.removeprefix("medssl_monai/") for n in archive.namelist() if n.startswith("medssl_monai/")}
    assert {*contents(ROOT), "label_server/form.html"} <= inside
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        members = {"/".join(n.split("/")[1:]) for n in archive.getnames()}
    assert {*contents(ROOT), "medssl_monai/label_server/form.html"} <= members
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "bundle_templates").rglob("*.yaml*")} <= members
    # The installed wheel finds its bundles without the checkout.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, cwd=tmp_path, env=clean)
    program = "from medssl_monai.resources import bundle_dir, encoder_path; print(bundle_dir('ct_ssl_spark'))"
    program += "; print(encoder_path('ct-lidc-spark-resnet50').stat().st_size)"
    run = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path, env=clean)
    found, size = run.stdout.split()
    assert str(environment) in found
    assert int(size) == (ROOT / "encoders" / "ct-lidc-spark-resnet50.safetensors").stat().st_size
