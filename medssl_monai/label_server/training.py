"""Training on the server: fine-tuning on users' labels, pre-training on all studies.

Each training has its own folder below ``runs``. Only a finished one is served, by the rename of a link, so a training
that fails or is stopped changes nothing.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_text
from medssl_monai.classify.finetune import finetune
from medssl_monai.errors import CheckpointError, ConfigError, LabelError, NoImagesError
from medssl_monai.label_server.class_labels import LabelledSeries, label_table
from medssl_monai.label_server.networks import check_model, read_model_view
from medssl_monai.label_server.records import Records
from medssl_monai.label_server.studies import Studies
from medssl_monai.label_server.workspace import Workspace
from medssl_monai.runs.folder import run_settings
from medssl_monai.runs.pretrain import METHODS, pretrain

logger = logging.getLogger(__name__)

START_FROM = ("current", "pretrained", "scratch")
KEPT_RUNS = 5
# Settings of the bundles that a request may give.
TRAINING_KEYS = (
    *("arch", "image_size", "batch_size", "max_epochs", "epoch_length", "num_workers", "learning_rate", "seed"),
    *("window", "frozen_epochs", "class_balance", "weight_decay", "augment", "decoder_width", "queue_length", "counts"),
    "channel_spacing_mm",
)
_WORD = re.compile(r"[A-Za-z0-9_.+-]{1,64}")


def plain_settings(request: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training in a request: numbers, plain words and lists of them.

    MONAI evaluates text that begins with ``$`` or ``@``, and a request must not run code.

    Raises:
        ConfigError: a value of another kind.
    """
    found = {}
    for name in TRAINING_KEYS:
        if name in request and request[name] is not None:
            if not _is_plain(request[name]):
                raise ConfigError(
                    f"{name}: must be a number, a plain word or a list of them, found {str(request[name])[:40]!r}; "
                    "correct it"
                )
            found[name] = request[name]
    return found


def _without(settings: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in names}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 8 and all(_is_plain(one) for one in value)
    return isinstance(value, (bool, int, float)) or (isinstance(value, str) and _WORD.fullmatch(value) is not None)


def labelled_series(studies: Studies, records: Records, *, fetch: bool = True) -> list[LabelledSeries]:
    """The series that users gave a class, with their usable slices.

    Args:
        studies: of the server.
        records: with the labels.
        fetch: ingest missing images; False leaves them out.
    """
    found = []
    for image_id in studies.ids() if fetch else studies.fetched_ids():
        label = records.class_label(studies.record_name(image_id))
        if label is None:
            continue
        try:
            rows = studies.rows(image_id)
        except NoImagesError as error:
            logger.warning("a labelled image is skipped: %s", error)
            continue
        for series in sorted({row["series_id"] for row in rows}):
            slices = [row["slice"] for row in rows if row["series_id"] == series]
            found.append(LabelledSeries(series, rows[0]["patient"], slices, label))
    return found


def train_classifier(
    workspace: Workspace, studies: Studies, records: Records, request: Mapping[str, Any]
) -> dict[str, Any]:
    """Fine-tune on the final labels and serve the result.

    Args:
        workspace: of the server.
        studies: of the server.
        records: with the labels.
        request: see `TRAINING_KEYS`; ``start_from`` is current (the encoder of the served classifier),
            pretrained (the last pre-training here, or the server's ``--encoder``) or scratch; by default the first of
            these that exists. ``val_split`` is the share of patients held out (0.2).

    Returns:
        ``run`` (its name), ``classes`` and ``slices`` (number of those labelled).

    Raises:
        LabelError: there are too few labels, see `label_table`.
        ConfigError: a setting is not a plain value, or the starting weights do not exist.
    """
    settings = plain_settings(request)
    start, weights = _start(workspace, request.get("start_from"))
    labelled = labelled_series(studies, records)
    table = label_table(labelled, float(request.get("val_split", 0.2)), int(settings.get("seed", 0)))
    run = _new_run(workspace, "finetuning")
    labels = run / ".labels.csv"  # hidden: a run is written into an empty folder only
    write_text(labels, table)
    logger.info("fine-tuning on %d slices of %d series, from %s", table.count("\n") - 1, len(labelled), start)
    if weights is not None:
        settings = {**_as_before(start, weights), **settings}
    places: dict[str, Any] = {
        "store": studies.store_path,
        "encoder": weights,
        "device": studies.settings.device,
        "num_workers": 0,
    }
    finetune(labels, run, **{**places, **_without(settings, "decoder_width", "queue_length", "counts")})
    view = check_model(run)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)  # a finished training needs no optimizer state
    workspace.point(workspace.current_model, run)
    _drop_old_runs(workspace)
    logger.info("now serving the classifier of %s", run.name)
    return {"run": run.name, "classes": list(view.classes), "slices": table.count("\n") - 1}


def train_encoder(workspace: Workspace, studies: Studies, request: Mapping[str, Any]) -> dict[str, Any]:
    """Pre-train an encoder on all studies of the server; the next fine-tuning may start from it.

    Args:
        workspace: of the server.
        studies: of the server; missing ones are fetched first.
        request: ``method`` (see `METHODS`; spark) and `TRAINING_KEYS`.

    Returns:
        ``run`` (its name) and ``method``.

    Raises:
        ConfigError: the method is unknown, or a setting is not a plain value.
    """
    method = request.get("method") or "spark"
    if method not in METHODS:
        raise ConfigError(f"method: must be one of {', '.join(METHODS)}, found {str(method)[:40]!r}; choose one")
    settings = plain_settings(request)
    studies.fetch_all()
    run = _new_run(workspace, f"pretraining-{method}")
    filters: list[list[Any]] = list(studies.settings.filters)
    if studies.settings.modality == "CT":
        filters.append(["body_fraction", ">", 0.05])
    given: dict[str, Any] = {"device": studies.settings.device, "filters": filters, "num_workers": 0}
    given |= _without(settings, "frozen_epochs", "class_balance", "augment")
    pretrain(method, studies.store_path, run, **given)
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    workspace.point(workspace.pretrained, run)
    _drop_old_runs(workspace)
    logger.info("fine-tuning can now start from %s", run.name)
    return {"run": run.name, "method": method}


def _start(workspace: Workspace, wanted: Any) -> tuple[str, Path | None]:
    """The name of the starting point, and its weights."""
    if wanted is not None and wanted not in START_FROM:
        raise ConfigError(f"start_from: must be one of {', '.join(START_FROM)}, found {str(wanted)[:40]!r}; choose one")
    given = workspace.settings().encoder
    pretrained = workspace.pretrained.resolve() if workspace.pretrained.exists() else Path(given) if given else None
    there = {"current": workspace.current_model.resolve() if workspace.current_model.exists() else None}
    there |= {"pretrained": pretrained}
    if wanted == "scratch":
        return "scratch", None
    for name in [wanted] if wanted else ["current", "pretrained"]:
        if there[name] is not None:
            return name, there[name]
    if wanted is None:
        return "scratch", None
    what = "a classifier" if wanted == "current" else "a pre-trained encoder"
    raise ConfigError(f"start_from={wanted}: the server has no {what[2:]} yet; pre-train, or choose scratch")


def _as_before(start: str, weights: Path) -> dict[str, Any]:
    """The settings that the weights were trained with."""
    if start == "current":
        view = read_model_view(weights)
        kept = ("arch", "image_size", "window", "mean", "std", "channel_spacing_mm")
        return {name: getattr(view, name) for name in kept if getattr(view, name) is not None}
    return {}  # the bundle takes an encoder's own


def _new_run(workspace: Workspace, kind: str) -> Path:
    numbers = [int(p.name[:4]) for p in workspace.runs.iterdir() if p.name[:4].isdigit()]
    run: Path = workspace.runs / f"{max(numbers, default=0) + 1:04d}-{kind}"
    run.mkdir(mode=0o700)
    (run / "checkpoints").mkdir()  # deleted at the end of a training: a folder that has it was stopped
    return run


def _drop_old_runs(workspace: Workspace) -> None:
    """Keep the newest finished runs and those in use; delete the others."""
    used = {link.resolve() for link in (workspace.current_model, workspace.pretrained) if link.exists()}
    runs = sorted(p for p in workspace.runs.iterdir() if p.is_dir())
    finished = [p for p in runs if not (p / "checkpoints").exists()]
    for run in runs:
        if run.resolve() not in used and run not in finished[-KEPT_RUNS:]:
            shutil.rmtree(run, ignore_errors=True)


def last_finetuning(workspace: Workspace) -> dict[str, Any]:
    """Settings and validation figures of the served run; empty if it was not trained here."""
    if not workspace.current_model.exists():
        return {}
    run = workspace.current_model.resolve()
    try:
        settings = run_settings(run)
    except CheckpointError:
        return {}
    found: dict[str, Any] = {
        "run": run.name,
        **{name: settings.get(name) for name in ("classes", "max_epochs", "learning_rate", "image_size", "arch")},
    }
    metrics = run / "validation" / "metrics.json"
    if metrics.is_file():
        content = json.loads(metrics.read_text(encoding="utf-8"))
        found["validation"] = {k: content["all_slices"].get(k) for k in ("accuracy", "balanced_accuracy", "auc")}
    return found


def require_labels(studies: Studies, records: Records) -> None:
    """Refuse a fine-tuning without enough labels before a process is started for it.

    Raises:
        LabelError: fewer than two classes.
    """
    classes: set[str] = set()
    for image_id in studies.ids():
        label = records.class_label(studies.record_name(image_id))
        classes |= label.classes if label else set()
    if len(classes) < 2:
        raise LabelError(
            f"training needs labels of two classes or more, found {', '.join(sorted(classes)) or 'none'}; "
            "label more studies (tag final) and train again"
        )
