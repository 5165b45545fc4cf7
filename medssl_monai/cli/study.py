"""``medssl study``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medssl_monai.cli.options import Json, Store, print_json, print_tables


def run(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or a name in configs/: study_demo.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the study; a stopped one carries on.")],
    data: Annotated[Path | None, typer.Option("--data", help="Label table, in place of the file's data.")] = None,
    store: Store = None,
    root: Annotated[Path | None, typer.Option("--root", help="Folder of the pictures, of a study of pictures.")] = None,
    patients: Annotated[
        Path | None, typer.Option("--patients", help="CSV with a column of these pictures and one of their patients.")
    ] = None,
    pretrain_on: Annotated[
        Path | None, typer.Option("--pretrain-on", help="Store or folder of unlabelled images to pre-train on.")
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", metavar="NAME=FILE", help="One more encoder. May be repeated.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Trainings side by side.")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Dask scheduler with workers that train instead: tcp://HOST:PORT.")
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Repeat trainings that other code or libraries made.")] = False,
    imagenet: Annotated[
        Path | None, typer.Option("--imagenet", help="ImageNet weights (a file of torchvision's) as one more encoder.")
    ] = None,
    wanted: Annotated[
        float | None, typer.Option("--wanted", help="Value of the metric: how many labels are expected to reach it?")
    ] = None,
    into: Annotated[
        Path | None, typer.Option("--into", help="Markdown file in which the tables of this study are replaced.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare encoders by how few labels they need: the paper's figure, with intervals and tests."""
    from medssl_monai.experiment.growth import growth_note, growth_table
    from medssl_monai.experiment.plan import read_plan
    from medssl_monai.experiment.report import markdown_tables, replace_tables
    from medssl_monai.experiment.run import study

    given = None if data is None else {"labels": str(data), "store": None if store is None else str(store)}
    encoders = _encoders(encoder) | ({} if imagenet is None else {"ImageNet": {"imagenet": str(imagenet)}})
    archive = None if pretrain_on is None else str(pretrain_on)
    places = {"root": root, "patients": patients, "pretrain_on": archive}
    plan = read_plan(config, data=given, encoders=encoders, workers=workers, wanted=wanted, **places)
    results = study(plan, out, scheduler=scheduler, rerun=rerun)
    if into is not None:
        replace_tables(into, Path(config).stem, markdown_tables(results))
    if json:
        print_json(results.record)
    else:
        from medssl_monai.terminal import labels_table, study_table

        tables = [study_table(results)]
        if results.growths and plan.wanted is not None:
            columns, rows = growth_table(plan, results.growths, {head: head for head in plan.shown_heads})
            tables.append(labels_table(columns, rows, growth_note(results.growths)))
        print_tables(*tables)
        typer.echo(f"{out}: report.html, results.csv, figures.csv, comparisons.csv, tables.md, figures/study.png")


def _encoders(pairs: list[str] | None) -> dict[str, Any]:
    from medssl_monai.errors import ConfigError

    found = {}
    for pair in pairs or []:
        name, separator, file = pair.partition("=")
        if not separator or not name or not file:
            raise ConfigError(f"--encoder: {pair!r} is not NAME=FILE; write for instance SparK=encoder.safetensors")
        found[name] = file
    return found
