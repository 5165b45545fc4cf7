"""``medssl export``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medssl_monai.cli.options import RunDir


def run(
    run_dir: RunDir,
    out: Annotated[Path, typer.Option("--out", help="File to write; a folder for bundle and timm-hub.")],
    form: Annotated[
        Literal["safetensors", "torchvision", "torchscript", "onnx", "timm", "timm-hub", "bundle"],
        typer.Option("--format", help="What the file is for."),
    ] = "safetensors",
    single_channel: Annotated[
        bool, typer.Option("--single-channel", help="Fold the first convolution: the network takes one channel.")
    ] = False,
    head: Annotated[bool, typer.Option("--head", help="Keep a fine-tuned run's classification layer.")] = False,
    half: Annotated[
        bool, typer.Option("--half", help="Convolutions in half precision: half the size (safetensors only).")
    ] = False,
    data: Annotated[
        list[Path] | None,
        typer.Option(
            "--data",
            help="Store the run was trained on, for the passport and the card's counts and spacing; each of several.",
        ),
    ] = None,
    passport: Annotated[
        bool, typer.Option(help="Carry prints of training slices (safetensors, needs --data), for `medssl audit`.")
    ] = True,
    licence: Annotated[str | None, typer.Option("--licence", help="Terms of the weights, for the card.")] = None,
) -> None:
    """Write a run's encoder in torchvision's names, proven to compute the same, with a report and a card beside it."""
    from medssl_monai.checkpoints.run_export import export_run

    options: dict[str, Any] = {"single_channel": single_channel, "head": head, "half": half, "licence": licence}
    carries = form == "timm-hub" or out.suffix == ".safetensors"
    if data:
        options |= _described(data, run_dir, passport and carries)
    if not passport:
        options["passport"] = ""
    report = export_run(run_dir, out, form, **options)
    typer.echo(f"{out}: {len(report.matched)} tensors, fingerprint {report.fingerprint[:16]}")
    if data and passport and not carries:
        typer.echo("without a passport, which only .safetensors files and --format timm-hub carry")


def _described(data: Sequence[str | Path], run_dir: Path, passport: bool) -> dict[str, Any]:
    """Counts and spacings of the slices that the run was trained on, and their passport if it is wanted."""
    from medssl_monai.checkpoints.model_card import DESCRIBED, describe_data
    from medssl_monai.errors import StoreError
    from medssl_monai.labels.passport import make_passport
    from medssl_monai.mappings import read_run_record
    from medssl_monai.store.joined import JoinedStore
    from medssl_monai.store.places import store_at

    stores, known = [store_at(one) for one in data], read_run_record(run_dir)
    store = stores[0] if len(stores) == 1 else JoinedStore(stores)
    trained_on = known.get("data_fingerprint")
    if trained_on not in {None, store.fingerprint}:
        raise StoreError(
            f"{store.place}: must be the store that {run_dir} was trained on (fingerprint {trained_on[:16]}), found "
            f"{store.fingerprint[:16]}; give that store, or leave --data out"
        )
    settings = known.get("settings", {})
    filters, apart = settings.get("filters"), settings.get("channel_spacing_mm") or 0
    found = {"passport": make_passport(store, filters, channel_spacing_mm=apart).to_text()} if passport else {}
    if trained_on is not None and known.get("data"):
        return {**found, "data": dict(known["data"])}  # without what the run left out as redundant
    return {**found, "data": describe_data(store.select_table(filters, DESCRIBED))}
