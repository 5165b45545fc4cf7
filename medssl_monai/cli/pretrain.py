"""``medssl pretrain``."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Config, Overrides, PatientFrom, Patients, methods, parse_overrides


def run(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="spark, swav, moco or byol.", autocompletion=methods)],
    data: Annotated[
        list[Path],
        typer.Option(
            "--data", help="Slice store (folder or URL), or folder of DICOM, NIfTI or pictures; stores may repeat it."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder of the run.")],
    overrides: Overrides = None,
    config: Config = None,
    patient_from: PatientFrom = None,
    patients: Patients = None,
) -> None:
    """Pre-train an encoder without labels. Stopped runs carry on when the same command is given again."""
    from medssl_monai.runs.pretrain import pretrain

    named = {"patient_from": patient_from, "patients": None if patients is None else str(patients)}
    settings = {**parse_overrides(overrides), **{key: value for key, value in named.items() if value is not None}}
    with _summary_kept():
        done = pretrain(method, data, out, config=config or [], **settings)
    for line in done.summary():
        typer.echo(line)
    typer.echo(f"{out}: encoder in {done.encoder}, pictures in {out / 'figures'}")


@contextmanager
def _summary_kept() -> Iterator[None]:
    """The last figures are not logged, since they are printed as the result."""

    def wanted(record: logging.LogRecord) -> bool:
        return not getattr(record, "at_end", False)

    shown = logging.lastResort
    if shown is not None:
        shown.addFilter(wanted)
    try:
        yield
    finally:
        if shown is not None:
            shown.removeFilter(wanted)
