"""``medssl demo``: what ``make demo`` runs."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder to fill.")] = Path("demo"),
    offline: Annotated[bool, typer.Option("--offline", help="On the phantom, without a download.")] = False,
) -> None:
    """Run the whole job on real sample CTs: ingest, pre-train SparK, remap, fine-tune, evaluate, predict."""
    from medssl_monai.demo import run_demo

    run_demo(out, offline=offline)
