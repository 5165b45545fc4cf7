"""``medssl audit``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, Key, Store, print_json, print_tables
from medssl_monai.plain_text import plain_text


def run(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Stores, label tables, pictures in folders by class, COVID-CT, .npz; weights with a passport.",
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for all that was found.")] = None,
    store: Store = None,
    distance: Annotated[
        int, typer.Option("--distance", min=0, max=15, help="Bits of 64 in which hashes of look-alikes may differ.")
    ] = 6,
    key: Key = None,
    json: Json = False,
) -> int:
    """Find what sets share and what tells the class; ends with 1 if there is a leak, 2 if it could not be checked."""
    from medssl_monai.atomic import write_json
    from medssl_monai.classify.audited import audit
    from medssl_monai.ingest import load_key
    from medssl_monai.terminal import audit_tables

    report = audit(inputs, store=store, key=load_key(key), distance=distance)
    if out is not None:
        write_json(out, report.to_json())
    if json:
        print_json(report.to_json())
    else:
        print_tables(*audit_tables(report))
        for sentence in (*report.refusals, *(one.sentence for one in report.telltales), *report.statements):
            typer.echo(plain_text(sentence))
        typer.echo(("no leak found", "leaks found", "no leak found in what could be checked")[report.exit_code])
    for sentence in report.unchecked:
        typer.echo(f"not checked: {plain_text(sentence)}", err=True)
    return report.exit_code
