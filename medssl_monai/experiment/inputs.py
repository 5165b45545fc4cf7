"""What a study's cells read: labels and store, made once; encoders, pre-trained once; all on training patients only."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.overview import write_overview
from medssl_monai.classify.pictures.published import image_task
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.experiment.made_by import made_by, settings_of
from medssl_monai.experiment.plan import StudyPlan, digest, slug
from medssl_monai.experiment.set_aside import set_aside
from medssl_monai.ingest import build_store
from medssl_monai.labels.labelled_slices import write_labelled_slices
from medssl_monai.labels.names import SPLITS
from medssl_monai.labels.subsets import Unit, choose_unit
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.samples.phantom import write_phantom

logger = logging.getLogger(__name__)

REMEDY = "give --rerun to make again what other code made"
# The phantom is nobody: with one key for everyone its slices have the same order, and the figures are the same.
PUBLIC_KEY = b"medssl-monai phantom: public images only"


@dataclass(frozen=True)
class StudyInputs:
    """What every cell needs.

    Attributes:
        overrides: keys of ``ct_classification`` that say where the data are.
        overlays: files given after its ``train.yaml``.
        unit: what the subsets are drawn of.
        classes: names.
        train_patients: number of patients to learn from; None where unknown.
        fingerprint: of labels and images.
        encoders: name -> file or run with the weights, None for scratch.
    """

    overrides: dict[str, Any]
    overlays: list[Path]
    unit: Unit
    classes: list[str]
    train_patients: int | None
    fingerprint: str
    encoders: dict[str, str | None]

    @property
    def files(self) -> list[Path]:
        """Configuration files of a cell."""
        return [bundle_dir("ct_classification") / "configs" / "train.yaml", *self.overlays]


def prepare(plan: StudyPlan, out: Path, *, rerun: bool = False) -> StudyInputs:
    """Make or find data and encoders; what an earlier run of the study left is used again.

    Args:
        plan: of the study.
        out: its folder.
        rerun: pre-train again where other code pre-trained; without it this is logged as a warning.

    Raises:
        ConfigError: pictures cannot be pre-trained on, or a setting, a bundle or an overlay does not exist.
        CheckpointError: an encoder's weights are missing or another network's.
        LabelError: the labels do not fit, or have no training or test part.
    """
    overlays = [config_file(name) for name in plan.overlays]
    _check_encoders(plan)
    if plan.data.get("images"):
        return _pictures(plan, overlays, out)
    labels, store = plan.data.get("labels"), plan.data.get("store")
    key = PUBLIC_KEY if plan.data.get("phantom") else None
    if plan.data.get("phantom"):
        labels = write_phantom(out / "data" / "phantom", **plan.data["phantom"])
        store = out / "data" / "store"
        build_store([labels.parent], store, key=key, modality="CT", progress=False)
    assert labels is not None  # read_plan saw to it
    data = LabelledData(
        labels,
        store,
        plan.settings.get("classes"),
        cache_dir=out / "data" / "stores",
        key=key,
        task=plan.settings.get("task", "multiclass"),
    )
    write_overview(data, out / "data")
    train = data.rows("train")
    patients = [row["patient"] for row in train]
    splits = SPLITS if data.table.has_split else ("train",)
    rows = [row for split in splits for row in data.rows(split)]
    table = digest([(row["series_id"], row["slice"], row["label_name"]) for row in [*train, *data.rows("test")]])
    series = sorted({row["series_id"] for row in train})
    return StudyInputs(
        overrides={
            "dataset_dir": str(write_labelled_slices(out / "data" / "labels.csv", rows)),
            "store_dir": str(data.store.path),
            "classes": data.classes,
        },
        overlays=overlays,
        unit=choose_unit(patients, min(plan.fractions)),
        classes=data.classes,
        train_patients=len(set(patients)),
        fingerprint=digest([data.fingerprint, table]),
        encoders={name: _encoder(plan, name, data.store.path, series, out, rerun) for name in plan.encoders},
    )


def _check_encoders(plan: StudyPlan) -> None:
    """All at the beginning: a file is missing before hours of training as it is after them."""
    for name, source in plan.encoders.items():
        if source.bundle is not None:
            bundle_dir(source.bundle)
            for overlay in source.overlays:
                config_file(overlay)
        if source.weights is None:
            continue
        try:
            found = load_encoder(source.weights)[1].arch
        except CheckpointError as error:
            raise CheckpointError(f"the encoder {name!r}: {error}") from error
        wanted = plan.settings.get("arch", found)
        if found != wanted:
            raise CheckpointError(
                f"the encoder {name!r}: its weights are of a {found}, the study is of {wanted}; give other weights, or "
                f"arch: {found} in the study's settings"
            )


def _pictures(plan: StudyPlan, overlays: list[Path], out: Path) -> StudyInputs:
    name = plan.data["images"]
    wanted = [n for n, source in plan.encoders.items() if source.bundle]
    if wanted:
        raise ConfigError(f"the encoder {wanted[0]!r} cannot be pre-trained on pictures; give its weights")
    data = image_task(name, plan.data["root"])
    write_overview(data, out / "data")
    positions = data.splits["train"]
    patients = [data.patients[i] for i in positions]
    return StudyInputs(
        overrides={"dataset_dir": str(plan.data["root"])},
        overlays=[config_file(f"finetune_{name}"), *overlays],
        unit=choose_unit(patients, min(plan.fractions)),
        classes=data.classes,
        train_patients=len(set(patients)) if all(patients) else None,
        fingerprint=data.fingerprint,
        encoders={n: source.weights for n, source in plan.encoders.items()},
    )


def _encoder(plan: StudyPlan, name: str, store: Path, series: list[str], out: Path, rerun: bool) -> str | None:
    """Path of an encoder's weights; a bundle is pre-trained on the training patients' series unless it is done."""
    source = plan.encoders[name]
    if source.bundle is None:
        return source.weights
    run = out / "encoders" / slug(name)
    mark = run / "study.sha256"
    files = [bundle_dir(source.bundle) / "configs" / "train.yaml", *map(config_file, source.overlays)]
    arch = plan.settings.get("arch", "resnet50")
    content = digest([source.bundle, settings_of(files), dict(source.settings), arch, series])
    maker, note = made_by(pretrain.__module__, files), run / "study_made_by.json"
    if mark.is_file() and mark.read_text() == content:
        if note.is_file() and json.loads(note.read_text(encoding="utf-8")) == maker:
            return str(run)
        if not rerun:
            logger.warning("the encoder %s was pre-trained by other code or libraries and is kept; %s", name, REMEDY)
            return str(run)
        set_aside(run, out, "was pre-trained by other code or libraries")
    elif mark.is_file():
        set_aside(run, out, "is of other settings or images")
    filters = [["modality", "==", "CT"], ["plane", "==", "axial"], ["series_id", "in", series]]
    method = source.bundle.removeprefix("ct_ssl_")
    pretrain(method, store, run, config=source.overlays, **{"filters": filters, "arch": arch, **source.settings})
    write_json(note, maker)
    mark.write_text(content)
    return str(run)


def weights_fingerprint(path: str | None) -> str | None:
    """SHA-256 of an encoder's weights; of the files of a run those in ``models``."""
    if path is None:
        return None
    source = Path(path)
    files = sorted((source / "models").glob("*")) if source.is_dir() else [source]
    hashes = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()]
    if not hashes:
        raise ConfigError(f"encoder weights {source.name!r} do not exist; check the path")
    return digest(hashes)
