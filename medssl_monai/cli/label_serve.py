"""``medssl label-serve``."""

from pathlib import Path
from typing import Annotated

import typer

from medssl_monai.cli.options import Key, Query, VerifyTls


def run(
    studies: Annotated[
        str, typer.Option("--studies", help="Folder of DICOM, NIfTI and the like, a store, or a DICOMweb address.")
    ],
    model: Annotated[
        Path | None, typer.Option("--model", help="Folder of a finetune run or of a packed bundle of classification.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option("--encoder", help="Pre-trained weights or run, of images in HU, for the first fine-tuning."),
    ] = None,
    work: Annotated[
        Path | None, typer.Option("--work", help="Folder for labels, trained models and caches; private.")
    ] = None,
    modality: Annotated[str, typer.Option("--modality", help="Modality of the served series: CT, DX, ...")] = "CT",
    query: Query = None,
    verify_tls: VerifyTls = True,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to listen on.")] = 8000,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Listen on an address that other machines reach, without passwords.")
    ] = False,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    image_cache_gib: Annotated[
        float, typer.Option("--image-cache-gib", min=0.01, help="Room for image files made for clients.")
    ] = 10.0,
    use_given: Annotated[
        bool, typer.Option("--use-given", help="Serve --model itself, not a classifier trained here from it.")
    ] = False,
    python: Annotated[Path | None, typer.Option("--python", help="Python of the environment with MONAI Label.")] = None,
    nginx: Annotated[
        Path | None, typer.Option("--nginx", help="Write the configuration of a reverse proxy to this file, and exit.")
    ] = None,
    server_name: Annotated[
        str, typer.Option("--server-name", help="For --nginx: host name of the proxy.")
    ] = "label.hospital.example",
    key: Key = None,
) -> None:
    """Serve studies to MONAI Label clients: classify, label, fine-tune, pre-train, choose what to label next."""
    from medssl_monai.ingest.sources.dicomweb import is_dicomweb, parse_query

    if nginx is not None:
        from medssl_monai.atomic import write_text
        from medssl_monai.label_server.nginx import ProxySite, nginx_site

        write_text(nginx, nginx_site(ProxySite(server_name, upstream_port=port, pacs=is_dicomweb(studies))))
        typer.echo(f"{nginx}: put it into /etc/nginx/sites-available; docs/monai_label.md says how")
        return
    from medssl_monai.label_server.launch import check_address, label_python
    from medssl_monai.label_server.preparation import check_studies, prepare_server

    check_studies(studies)
    check_address(host, port, allow_remote=allow_remote)
    found = label_python(python)
    from medssl_monai.ingest.dicom.modalities import checked_modality
    from medssl_monai.label_server.workspace import ServerSettings
    from medssl_monai.resources import encoder_path

    settings = ServerSettings(
        studies=studies if is_dicomweb(studies) else str(Path(studies).resolve()),
        modality=checked_modality(modality),
        query=parse_query(query or []),
        verify_tls=verify_tls,
        device=device,
        image_cache_gib=image_cache_gib,
        key=None if key is None else str(key.resolve()),
        encoder=None if encoder is None else str(encoder_path(encoder).resolve()),
    )
    workspace, sentences = prepare_server(settings, model=model, work=work, use_given=use_given)
    for sentence in sentences:
        typer.echo(sentence)
    typer.echo(f"http://{host}:{port}/form/ takes classes when the server is up (half a minute); Ctrl-C stops it")
    if allow_remote:
        typer.echo("everybody who reaches this address can see every image: there are no passwords", err=True)
    import os

    from medssl_monai.label_server.launch import enter, server_command, server_environment

    environment = server_environment(workspace, settings, host, os.environ)
    enter(server_command(found, workspace, settings, host, port), environment, workspace)
