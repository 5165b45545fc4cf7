"""``medssl bundle list`` and ``medssl bundle pack``."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from medssl_monai.cli.options import Json, bundles, print_json


def list_(json: Json = False) -> None:
    """The bundles that are installed: name, version, what for, and where."""
    from medssl_monai.runs.pack import shipped_bundles

    found = shipped_bundles()
    if json:
        print_json([{**vars(one), "path": str(one.path)} for one in found])
        return
    for one in found:
        typer.echo(f"{one.name} {one.version}\n  {one.description}\n  {one.path}")


def pack(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A bundle, such as ct_classification.", autocompletion=bundles)
    ],
    run: Annotated[Path, typer.Option("--run", help="Finished run of that bundle, with the weights to pack.")],
    out: Annotated[Path | None, typer.Option("--out", help="Zip to write; NAME.zip by default.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", help="Terms of the weights, for the card.")] = None,
) -> None:
    """Put a run's weights into a bundle and write it as one zip that runs anywhere."""
    from medssl_monai.runs.pack import pack_bundle

    out = out or Path(f"{name}.zip")
    digest = pack_bundle(name, run, out, licence=licence)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, sha256 {digest}")


VERBS: dict[str, Callable[..., Any]] = {"list": list_, "pack": pack}
