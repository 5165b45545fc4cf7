"""``medssl finetune``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Config, Overrides, parse_overrides


def run(
    overrides: Overrides = None,
    data: Annotated[Path, typer.Option("--data", help="Label table (CSV or JSON).")] = ...,  # type: ignore[assignment]
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")] = ...,  # type: ignore[assignment]
    encoder: Annotated[
        Path | None, typer.Option("--encoder", help="Encoder weights, or a pre-training run; without it from scratch.")
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Store that holds the table's sources.")] = None,
    config: Config = None,
) -> None:
    """Fine-tune a classifier on few labels."""
    from medssl_monai.resources import bundle_dir, config_file
    from medssl_monai.runs.bundle import run_bundle

    overlays = [config_file(name) for name in config or []]
    run_bundle(
        [bundle_dir("ct_classification") / "configs" / "train.yaml", *overlays],
        {
            "dataset_dir": str(data),
            "store_dir": None if store is None else str(store),
            "output_dir": str(out),
            "encoder_weights": None if encoder is None else str(encoder),
            "overlays": [str(p) for p in overlays],
            **parse_overrides(overrides),
        },
    )
    typer.echo(f"{out}: classifier in {out / 'models' / 'model.pt'}")
