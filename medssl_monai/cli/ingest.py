"""``medssl ingest``."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from medssl_monai.cli.options import Json, Key, PatientFrom, Patients, Query, VerifyTls, print_json, print_tables


def run(
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Folders, files, archives, or the https:// address of a DICOMweb PACS."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Store to make or to add to.")],
    workers: Annotated[int, typer.Option("--workers", min=1, help="Processes.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Dask scheduler that does the work instead: tcp://HOST:PORT.")
    ] = None,
    modality: Annotated[str | None, typer.Option("--modality", help="Only this modality, such as CT.")] = None,
    assume_hu: Annotated[
        bool,
        typer.Option(
            "--assume-hu", help="CT without rescale tags, and NIfTI and the like whatever their values, is in HU."
        ),
    ] = False,
    patient_from: PatientFrom = None,
    patients: Patients = None,
    query: Query = None,
    verify_tls: VerifyTls = True,
    config: Annotated[
        str | None, typer.Option("--config", help="Recipe with options: a YAML file, or a name such as lidc.")
    ] = None,
    key: Key = None,
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Contact sheet to draw (PNG).")] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html into the store.")] = True,
    names: Annotated[
        Path | None,
        typer.Option(
            "--names", help="CSV to write or add to: the path and UID of every series; it identifies patients."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Read clinical images into a store of Hounsfield-unit slices, with a verdict for every series."""
    from medssl_monai.cli.recipes import load_recipe
    from medssl_monai.errors import InputError
    from medssl_monai.ingest import SliceStore, build_store, load_key
    from medssl_monai.ingest.sources.dicomweb import PacsSource, is_dicomweb, parse_query
    from medssl_monai.ingest.volumes.patients import NamedPatients
    from medssl_monai.store.names_file import add_names, check_names_file
    from medssl_monai.terminal import verdict_counts, verdict_table

    if config is not None:
        recipe = _not_given(context, load_recipe(config))
        modality, workers = recipe.get("modality", modality), recipe.get("workers", workers)
        scheduler, query = recipe.get("scheduler", scheduler), recipe.get("query", query)
        assume_hu = recipe.get("assume_hu", assume_hu)
        patient_from = recipe.get("patient_from", patient_from)
        verify_tls, report = recipe.get("verify_tls", verify_tls), recipe.get("report", report)
    if query and not any(map(is_dicomweb, sources)):
        raise InputError("--query: asks a PACS, and no source is one; name its https:// address, or leave --query out")
    wanted = parse_query(query or [], modality)
    if names is not None:
        check_names_file(names)
    with _terminable(), _names_told(names):
        summary = build_store(
            [PacsSource(one, wanted, verify_tls) if is_dicomweb(one) else one for one in sources],
            out,
            key=load_key(key),
            modality=modality,
            assume_hu=assume_hu,
            workers=workers,
            report=report,
            scheduler=scheduler,
            names=names is not None,
            patients=NamedPatients(patient_from, patients),
        )
    if names is not None:
        add_names(names, summary.names)
    pages = []
    if sheet is not None:
        from medssl_monai.store.contact_sheet import contact_sheet

        pages = contact_sheet(SliceStore(out), sheet)
    for sentence in summary.statements:
        typer.echo(f"medssl: {sentence}", err=True)
    if json:
        print_json(verdict_counts(summary.verdicts))
    else:
        print_tables(verdict_table(summary.verdicts))
        typer.echo(f"{out}: {len(SliceStore(out))} slices of {summary.patients}; verdicts in {out / 'verdicts.jsonl'}")
        if pages:
            typer.echo(
                f"{pages[0]}: every series, rejected and flagged ones first, {len(pages)} page{'s' * (len(pages) > 1)}"
            )
        if names is not None:
            where = "inside the store: whoever is given the store is given" if _inside(names, out) else "it holds"
            typer.echo(
                f"{names}: {len(summary.names)} series and files; {where} paths and UIDs, which identify patients"
            )
        if report:
            typer.echo(f"open {out / 'report.html'} to see each series")


def _inside(file: Path, folder: Path) -> bool:
    return folder.resolve() in file.resolve().parents


def _not_given(context: typer.Context, recipe: dict[str, Any]) -> dict[str, Any]:
    """Options of a recipe that the command line does not give."""
    return {
        name: value
        for name, value in recipe.items()
        if getattr(context.get_parameter_source(name), "name", "DEFAULT") == "DEFAULT"
    }


@contextmanager
def _names_told(names: Path | None) -> Iterator[None]:
    """An ingestion that stores nothing leaves the names file as it was, and says so."""
    from medssl_monai.errors import NoImagesError

    try:
        yield
    except NoImagesError as error:
        if names is None:
            raise
        state = "nothing is added to it" if names.exists() else "it is not written"
        raise NoImagesError(f"{error}\n{names}: {state}, because nothing was stored") from error


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, which removes what was unpacked or fetched, and names of patients with it."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what cleans up is not to be stopped halfway
        raise KeyboardInterrupt("terminated; the same command goes on")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
