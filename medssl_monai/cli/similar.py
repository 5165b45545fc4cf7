"""``medssl similar``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, print_json, print_tables


def run(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A series id of the store, or DICOM or NIfTI files.")],
    store: Annotated[Path, typer.Option("--store", help="Store that is searched.")],
    encoder: Annotated[Path, typer.Option("--encoder", help="Encoder weights, a run, or a shipped encoder.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the list and its picture.")],
    slice_number: Annotated[
        int | None, typer.Option("--slice", min=0, help="A slice of it; without one the whole series is compared.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many are shown.")] = 8,
    same_patient: Annotated[
        bool, typer.Option("--same-patient", help="Show other series of its patient, too.")
    ] = False,
    json: Json = False,
) -> None:
    """Find the cases of a store that look like a slice or a series."""
    from medssl_monai.classify.similar import similar_cases

    found = similar_cases(query, store, encoder, out, slice_number, count=count, same_patient=same_patient)
    if json:
        print_json(found)
        return
    from medssl_monai.terminal import matches_table

    print_tables(matches_table(found))
    typer.echo(f"{out}: similar.json, similar.png")
