"""``medssl import-weights``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medssl_monai.cli.options import Json, print_json


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Checkpoint to read, or a run.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, ending in .safetensors.")],
    form: Annotated[
        str | None,
        typer.Option("--from", metavar="FORMAT", help="The file's format, or prefix:WORDS.; recognised without it."),
    ] = None,
    arm: Annotated[
        Literal["query", "online", "key", "target"],
        typer.Option("--arm", help="The trained network (query, online) or its moving average (key, target)."),
    ] = "online",
    report: Annotated[Path | None, typer.Option("--report", help="JSON file; OUT.report.json without it.")] = None,
    window: Annotated[str | None, typer.Option("--window", help="Window of the images in pre-training.")] = None,
    mean: Annotated[str | None, typer.Option("--mean", help="Their mean: 0.25, or [0.2, 0.2, 0.2].")] = None,
    std: Annotated[str | None, typer.Option("--std", help="Their standard deviation, likewise.")] = None,
    json: Json = False,
) -> None:
    """Convert a published checkpoint into weights of a torchvision ResNet, and report every tensor."""
    from medssl_monai.checkpoints.import_weights import import_weights
    from medssl_monai.checkpoints.preprocessing import Preprocessing
    from medssl_monai.cli.options import parse_overrides

    pairs = {"window": window, "mean": mean, "std": std}
    given: dict[str, Any] = parse_overrides([f"{key}={value}" for key, value in pairs.items() if value is not None])
    found = import_weights(file, out, form=form, arm=arm, report=report, preprocessing=Preprocessing(**given))
    if json:
        print_json(found.to_json())
        return
    for line in found.lines():
        typer.echo(line)
    typer.echo(f"{out}: proven to load into torchvision.models.{found.arch}")
