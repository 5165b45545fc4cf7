"""Preparation before the server starts, while a user still sees errors: studies are read, weights checked."""

from pathlib import Path

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.load import preprocessing_of
from medssl_monai.checkpoints.preprocessing import HOUNSFIELD, PICTURES, input_of
from medssl_monai.errors import CheckpointError, InputError
from medssl_monai.ingest import SliceStore, build_store, load_key
from medssl_monai.ingest.sources.dicomweb import PacsSource, is_dicomweb
from medssl_monai.label_server.launch import write_app
from medssl_monai.label_server.networks import check_model
from medssl_monai.label_server.workspace import ServerSettings, Workspace, default_root


def prepare_server(
    settings: ServerSettings, *, model: Path | None = None, work: Path | None = None, use_given: bool = False
) -> tuple[Workspace, list[str]]:
    """Make the workspace, read the studies of a folder, and check the weights.

    Args:
        settings: of the server.
        model: run or bundle to serve; if the server has trained a classifier from it, that one is served instead.
        work: the workspace; by default one for these studies, see `default_root`.
        use_given: serve `model` itself in any case.

    Returns:
        The workspace, and sentences for the user.

    Raises:
        CheckpointError: the model is not a complete classifier, or the encoder cannot be read or is of pictures.
        InputError: the studies do not exist, or the PACS does not answer.
    """
    if settings.device not in ("cpu", "cuda"):
        raise InputError(f"--device {settings.device}: must be cpu or cuda; choose one")
    view = None if model is None else check_model(model)
    if settings.encoder is not None:
        _check_encoder(settings.encoder)
    check_studies(settings.studies)
    workspace = Workspace((work or default_root(settings.studies)).resolve())
    if Path(settings.studies) == workspace.root or workspace.root in Path(settings.studies).parents:
        raise InputError(f"--work {workspace.root}: must not hold the studies; choose another folder")
    workspace.prepare()
    workspace.write_settings(settings)
    write_app(workspace)
    told = [_read_studies(workspace, settings), f"labels, models and caches lie in {workspace.root}"]
    if model is not None:
        told.append(_serve(workspace, model.resolve(), use_given=use_given))
    elif workspace.current_model.exists():
        check_model(workspace.current_model.resolve())
        told.append(f"serving {workspace.current_model.resolve().name}, trained here")
    else:
        told.append("no classifier yet: label studies and train one")
    if view is not None and workspace.current_model.resolve() == (model or Path()).resolve():
        told[-1] += f": {', '.join(view.classes)}"
    return workspace, told


def _check_encoder(encoder: str) -> None:
    """Refuse an encoder from which no training here could start."""
    if input_of(preprocessing_of(encoder).window) == PICTURES:
        raise CheckpointError(
            f"--encoder {Path(encoder).name}: was trained on {PICTURES}, and the images of the server are "
            f"{HOUNSFIELD}; give an encoder that was trained on such images"
        )


def check_studies(studies: str) -> None:
    """Refuse a folder that does not exist.

    Raises:
        InputError: neither a folder nor a DICOMweb address.
    """
    if not is_dicomweb(studies) and not Path(studies).exists():
        raise InputError(f"--studies {studies}: does not exist; name a folder or a DICOMweb address")


def _read_studies(workspace: Workspace, settings: ServerSettings) -> str:
    key = load_key(None if settings.key is None else Path(settings.key))
    if is_dicomweb(settings.studies):
        query = {"Modality": settings.modality, **settings.query}
        series = list(PacsSource(settings.studies, query, settings.verify_tls).listed())
        return f"{len(series)} {settings.modality} series in the PACS"
    if (Path(settings.studies) / "store.json").is_file():
        store = SliceStore(settings.studies)
        return f"{len(store.series_ids)} series with {len(store)} slices in the store"
    return str(build_store([Path(settings.studies)], workspace.store, key=key, modality=settings.modality))


def _serve(workspace: Workspace, model: Path, *, use_given: bool) -> str:
    given = workspace.root / "models" / "given.json"
    same = given.is_file() and given.read_text(encoding="utf-8").strip() == f'"{model}"'
    current = workspace.current_model.resolve() if workspace.current_model.exists() else None
    if same and not use_given and current is not None and current != model:
        check_model(current)
        return f"serving {current.name}, trained here after {model.name}; --use-given serves {model.name} again"
    workspace.point(workspace.current_model, model)
    write_json(given, str(model))
    return f"serving {model.name}"
