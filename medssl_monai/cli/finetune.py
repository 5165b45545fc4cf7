"""``medssl finetune``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Config, Overrides, Store, parse_overrides


def run(
    data: Annotated[
        Path, typer.Option("--data", help="Label table (CSV or JSON), or, with --config, a folder of pictures.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    overrides: Overrides = None,
    encoder: Annotated[
        Path | None,
        typer.Option("--encoder", help="Weights, a pre-training run, or a shipped encoder; without it from scratch."),
    ] = None,
    store: Store = None,
    config: Config = None,
) -> None:
    """Fine-tune a classifier on few labels."""
    from medssl_monai.classify.finetune import finetune

    done = finetune(data, out, encoder=encoder, store=store, config=config or (), **parse_overrides(overrides))
    typer.echo(f"{out}: classifier in {done.model}")
