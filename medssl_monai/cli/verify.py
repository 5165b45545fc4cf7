"""``medssl verify``."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Slice store.")],
    remove: Annotated[
        bool, typer.Option("--remove", help="Take damaged series out; ingest their sources again afterwards.")
    ] = False,
) -> int:
    """Compare a store with the checksums of what ingestion wrote; 1 if anything is damaged."""
    from medssl_monai.store.reader import SliceStore
    from medssl_monai.store.verify import damaged_series, remove_series

    opened = SliceStore(store)
    damaged = damaged_series(opened)
    for series_id, why in damaged.items():
        typer.echo(f"{series_id}: {why}")
    if not damaged:
        typer.echo(f"{store}: {opened.description['series']} series, all as written")
    elif remove:
        remove_series(store, list(damaged))
        typer.echo(f"{store}: {len(damaged)} series taken out; run the same `medssl ingest` again")
    else:
        typer.echo(f"{store}: {len(damaged)} series damaged; --remove takes them out, then run `medssl ingest` again")
    return int(bool(damaged))
