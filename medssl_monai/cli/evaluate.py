"""``medssl evaluate``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, Names, RunDir, Store, Thresholds, print_json, print_tables, splits
from medssl_monai.plain_text import plain_text


def run(
    run_dir: RunDir,
    data: Annotated[Path, typer.Option("--data", help="Label table (CSV or JSON).")],
    out: Annotated[Path, typer.Option("--out", help="Folder for figures and tables.")],
    store: Store = None,
    split: Annotated[
        str, typer.Option("--split", help="Rows of the table that are used.", autocompletion=splits)
    ] = "test",
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Fit the run's temperature and its reference of training slices again, and keep them."
        ),
    ] = False,
    thresholds: Thresholds = None,
    names: Names = None,
    json: Json = False,
) -> None:
    """Judge a run's classifier on labelled slices, by patient."""
    from medssl_monai.classify.evaluate import evaluate
    from medssl_monai.classify.thresholds import chosen_thresholds
    from medssl_monai.runs.folder import run_settings
    from medssl_monai.terminal import metrics_table

    cuts = chosen_thresholds(thresholds, run_settings(run_dir))
    metrics = evaluate(run_dir, data, out, store=store, split=split, calibrate=calibrate, names=names, **cuts).metrics
    if json:
        print_json(metrics)
    else:
        print_tables(metrics_table(metrics))
        for sentence in metrics["statements"]:
            typer.echo(plain_text(f"{data.name}: {sentence}"))
        typer.echo(f"{out}: metrics.json, predictions.csv, studies.json, figures/")
