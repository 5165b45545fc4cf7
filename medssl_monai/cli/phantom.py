"""``medssl phantom``."""

from pathlib import Path
from typing import Annotated

import typer


def run(
    out: Annotated[Path, typer.Option("--out", help="Folder to fill.")],
    patients: Annotated[int, typer.Option("--patients", min=2, help="Number of patients.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="The same seed makes the same files.")] = 0,
    size: Annotated[int, typer.Option("--size", min=32, help="Pixels a side.")] = 128,
    slices: Annotated[int, typer.Option("--slices", min=3, help="Slices a patient.")] = 32,
    organs: Annotated[bool, typer.Option("--organs", help="NIfTI volumes with organ masks instead of DICOM.")] = False,
) -> None:
    """Make a synthetic CT study tree (DICOM) with labels."""
    from medssl_monai.samples.phantom import write_phantom
    from medssl_monai.samples.segmentation import write_segmentation

    write, what = (write_segmentation, "organ masks") if organs else (write_phantom, "labels")
    table = write(out, patients=patients, seed=seed, size=size, slices=slices)
    typer.echo(f"{out}: {patients} patients, {what} in {table}")
