"""``medssl where``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, Key, print_json
from medssl_monai.plain_text import plain_text


def run(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="Slice store.")],
    asked: Annotated[
        list[str],
        typer.Argument(
            metavar="ID...", help="Pseudonyms of series, files or patients; or paths and SeriesInstanceUIDs."
        ),
    ],
    names: Annotated[
        Path | None, typer.Option("--names", help="Names file of `medssl ingest --names`: pseudonyms need it.")
    ] = None,
    key: Key = None,
    json: Json = False,
) -> int:
    """Lead from pseudonyms to paths, and from paths and UIDs to pseudonyms; 1 if one of them is not known."""
    from medssl_monai.errors import InputError, StoreError
    from medssl_monai.ingest.where import Whereabouts, whereabouts
    from medssl_monai.store.names_file import read_names
    from medssl_monai.store.places import store_at
    from medssl_monai.store.pseudonyms import load_key

    opened, rows = store_at(store), None if names is None else read_names(names)
    found: list[Whereabouts] = []
    unknown: list[str] = []
    for name in asked:
        try:
            found += whereabouts(opened, name, rows, None if key is None else load_key(key))
        except StoreError:
            raise
        except InputError as error:
            unknown.append(str(error))
    if json:
        print_json([one.to_json() for one in found])
    else:
        for one in found:
            became = f"{one.outcome} {one.reason}".strip()
            typer.echo("\t".join(map(plain_text, (one.id, became, one.path or "-", one.series_uid or "-"))))
    for sentence in unknown:
        typer.echo(plain_text(f"medssl: {sentence}"), err=True)
    return int(bool(unknown))
