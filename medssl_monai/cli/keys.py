"""``medssl keys``."""

from typing import Annotated

import typer

from medssl_monai.cli.options import Json, bundles, print_json


def run(
    bundle: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", help="A bundle, such as ct_ssl_spark: `medssl bundle list`.", autocompletion=bundles
        ),
    ],
    json: Json = False,
) -> None:
    """List the keys that KEY=VALUE may set: each with its default and what it means."""
    from medssl_monai.runs.keys import bundle_keys

    keys = bundle_keys(bundle)
    if json:
        print_json([vars(key) for key in keys])
        return
    for key in keys:
        typer.echo(f"{key.name}: {key.default}" + (f"  # {key.meaning}" if key.meaning else ""))
