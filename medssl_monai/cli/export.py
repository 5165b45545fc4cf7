"""``medssl export``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import RunDir


def run(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option("--out", help="File to write, ending in .safetensors.")],
) -> None:
    """Write a run's encoder in torchvision's names, proven to load into a plain ResNet, with a report beside it."""
    from medssl_monai.checkpoints.run_export import export_run

    report = export_run(run_dir, out)
    typer.echo(f"{out}: {len(report.matched)} tensors, fingerprint {report.fingerprint[:16]}")
