"""``medssl audit``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, Key, Store, print_json, print_tables
from medssl_monai.plain_text import plain_text


def run(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="STORE_OR_LABELS...", help="Stores, and label tables (CSV or JSON).")
    ],
    out: Annotated[Path | None, typer.Option("--out", help="JSON file for all that was found.")] = None,
    store: Store = None,
    distance: Annotated[
        int, typer.Option("--distance", min=0, max=15, help="Bits of 64 in which hashes of look-alikes may differ.")
    ] = 6,
    key: Key = None,
    json: Json = False,
) -> int:
    """Find patients and look-alike slices that pre-training, train, validation and test sets share; 1 if any leak."""
    from medssl_monai.atomic import write_json
    from medssl_monai.ingest import load_key
    from medssl_monai.labels.audit import audit
    from medssl_monai.terminal import audit_tables

    report = audit(inputs, store=store, key=load_key(key), distance=distance)
    if out is not None:
        write_json(out, report.to_json())
    if json:
        print_json(report.to_json())
    else:
        print_tables(*audit_tables(report))
        for sentence in (*report.refusals, *report.statements):
            typer.echo(plain_text(sentence))
        typer.echo("leaks found" if report.leaks else "no leak found")
    return int(report.leaks)
