"""``medssl rank``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, print_json, print_tables
from medssl_monai.errors import InputError
from medssl_monai.plain_text import plain_text


def measures(incomplete: str) -> list[str]:
    """Completes a measure."""
    from medssl_monai.statistics.encoder_measures import MEASURES

    return [name for name in MEASURES if name.startswith(incomplete)]


def run(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of pre-training runs.")],
    measure: Annotated[
        str | None, typer.Option("--measure", help="What ranks them, such as knn_place.", autocompletion=measures)
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Store on which encoders are measured that were not.")
    ] = None,
    json: Json = False,
) -> None:
    """Rank the encoders that pre-training runs kept, by what can be measured without labels."""
    from medssl_monai.classify.ranked_encoders import rank_encoders

    if measure is None:
        raise InputError(
            f"rank: --measure is missing; name one of {', '.join(measures(''))} "
            "(docs/results.md says how well each ranked)"
        )
    found = rank_encoders(runs, measure, data)
    if json:
        print_json(found)
        return
    from medssl_monai.terminal import ranked_tables

    print_tables(*ranked_tables(found))
    for group in found["groups"]:
        if group["differs"]:
            typer.echo(plain_text(group["differs"]))
    for folder, epochs in found["not_measured"].items():
        told = ", ".join(map(str, epochs))
        typer.echo(plain_text(f"{folder}: not measured at epoch {told}; give the run's store as --data"))
