"""``medssl predict``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Json, Names, Query, RunDir, Thresholds, VerifyTls, print_json, print_tables


def run(
    run_dir: RunDir,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="DICOM or NIfTI: files, folders, archives, a store, https://PACS/studies/UID; or pictures.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the predictions.")],
    heatmaps: Annotated[
        int, typer.Option("--heatmaps", min=0, metavar="N", help="Slices of each study drawn with Grad-CAM.")
    ] = 0,
    occlusion: Annotated[bool, typer.Option("--occlusion", help="Draw occlusion sensitivity beside it.")] = False,
    dicom_out: Annotated[
        Path | None,
        typer.Option(
            "--dicom-out",
            help="Folder for DICOM reports and pictures: these hold the patient's identity.",
        ),
    ] = None,
    paths: Annotated[
        bool, typer.Option("--paths", help="Write paths of the sources into the results; they may name a patient.")
    ] = False,
    names: Names = None,
    query: Query = None,
    verify_tls: VerifyTls = True,
    thresholds: Thresholds = None,
    json: Json = False,
) -> None:
    """Classify the slices and studies of clinical files: probabilities, flags, heat maps, DICOM reports."""
    from medssl_monai.classify.predict import PredictionOptions, predict
    from medssl_monai.classify.thresholds import chosen_thresholds
    from medssl_monai.ingest.sources.dicomweb import parse_query
    from medssl_monai.runs.folder import run_settings
    from medssl_monai.terminal import left_out_table, studies_table

    options = PredictionOptions(
        max(heatmaps, int(occlusion)), occlusion, dicom_out, names or paths, parse_query(query or []), verify_tls
    )
    cuts = chosen_thresholds(thresholds, run_settings(run_dir))
    done = predict(run_dir, sources, out, options, **cuts)
    if json:
        print_json({**done.about, "studies": done.studies, "left_out": done.left_out})
        return
    print_tables(studies_table(done.studies), *([left_out_table(done.left_out)] if done.left_out else []))
    about = done.about["temperature"]
    typer.echo(f"temperature {about['value']}: {about['note']}")
    typer.echo(f"unlike training: {done.about['out_of_distribution']['note']}")
    files = ["prediction.json", "predictions.csv", "studies.csv", "studies.json", "left_out.csv"]
    typer.echo(f"{out}: {', '.join(files)}{', heat_maps/' if options.heat_maps else ''}")
    if dicom_out is not None:
        typer.echo(f"{dicom_out}: DICOM objects with the patient's identity")
