"""``medssl predict``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, RunDir, print_json


def run(
    run_dir: RunDir,
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Store, DICOM folders or image files.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the predictions.")],
    json: Json = False,
) -> None:
    """Classify the slices and studies of clinical files: probabilities as CSV and JSON."""
    from medssl_monai.downstream.classify import predict_run
    from medssl_monai.downstream.report import studies_table

    studies = predict_run(run_dir, sources, out)
    if json:
        print_json(studies)
    else:
        from rich.console import Console

        Console().print(studies_table(studies))
        typer.echo(f"{out}: predictions.csv, studies.json")
