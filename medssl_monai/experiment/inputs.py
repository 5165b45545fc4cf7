"""What a study's cells read: labels and store, made once; encoders, pre-trained once; all on training patients only."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.classify.audited import is_store
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.overview import write_overview
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.folds import FOLDS
from medssl_monai.classify.pictures.published import image_task
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.experiment.made_by import made_by, settings_of
from medssl_monai.experiment.plan import StudyPlan, digest, slug
from medssl_monai.experiment.set_aside import set_aside
from medssl_monai.ingest import build_store
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.labels.labelled_slices import write_labelled_slices
from medssl_monai.labels.names import SPLITS
from medssl_monai.labels.subsets import Unit, choose_unit
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.store.reader import SliceStore

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
        encoders: name -> files or runs with the weights, one for each seed of the pre-training; none for scratch.
        contradicting: pictures, as predictions name them, that also stand in another class: they are not learned from,
            and count only in the figures of the official test part.
        folds: of a cross-validation; 0 with one test part.
    """

    overrides: dict[str, Any]
    overlays: list[Path]
    unit: Unit
    classes: list[str]
    train_patients: int | None
    fingerprint: str
    encoders: dict[str, list[str]]
    contradicting: frozenset[str] = frozenset()
    folds: int = 0

    def weights(self, encoder: str, seed: int) -> str | None:
        """Weights of the cells with this seed; None for scratch."""
        runs = self.encoders.get(encoder, [])
        return runs[seed % len(runs)] if runs else None

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
        ConfigError: there are no images to pre-train on, or a setting, a bundle or an overlay does not exist.
        CheckpointError: an encoder's weights are missing or another network's.
        LabelError: the labels do not fit, or have no training or test part.
    """
    overlays = [config_file(name) for name in plan.overlays]
    _check_encoders(plan)
    if plan.data.get("images"):
        return _pictures(plan, overlays, out, rerun)
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
        encoders=_encoders(plan, _Archives(plan, out, data.store.path, series), out, rerun),
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


def _pictures(plan: StudyPlan, overlays: list[Path], out: Path, rerun: bool) -> StudyInputs:
    name, root, patients = plan.data["images"], plan.data["root"], plan.data.get("patients")
    overlays = [config_file(f"finetune_{name}"), *overlays]
    data = image_task(name, root, patients=patients)
    audit = write_overview(data, out / "data")["audit"]
    pairs = [pair for pair in audit.get("near_duplicates", ()) if pair["first_label"] != pair["second_label"]]
    wrong = sorted({pair[side] for pair in pairs for side in ("first_series", "second_series")})
    if wrong:
        logger.warning("%d pictures stand in two classes, and are not learned from: %s", len(wrong), ", ".join(wrong))
    places = {data.file_of(place): place for place in range(len(data.images))}
    positions = data.splits["train"]
    owners = [data.patients[i] for i in positions]
    learned = [place for place in positions if data.file_of(place) not in wrong]
    files = [data.images.paths[place] for place in learned] if isinstance(data.images, ImageFiles) else []
    return StudyInputs(
        overrides={
            "dataset_dir": str(root),
            **({"patients": str(patients)} if patients else {}),
            **({"leave_out": wrong} if wrong else {}),
        },
        overlays=overlays,
        unit=choose_unit(owners, min(plan.fractions)),
        classes=data.classes,
        train_patients=len(set(owners)) if all(owners) else None,
        fingerprint=data.fingerprint,
        encoders=_encoders(plan, _Archives(plan, out, files=files), out, rerun),
        contradicting=frozenset(data.key(places[one])[0] for one in wrong),
        folds=FOLDS if name == "head_ct" else 0,
    )


class _Archives:
    """The unlabelled images that encoders are pre-trained on, as stores; each made when it is first asked for.

    Args:
        plan: of the study.
        out: its folder.
        store: holds the task's slices.
        series: of the store, those of the training patients.
        files: training pictures of a task without a store.
    """

    def __init__(
        self,
        plan: StudyPlan,
        out: Path,
        store: Path | None = None,
        series: Sequence[str] = (),
        files: Sequence[Path] = (),
    ) -> None:
        self.plan, self.out, self.store, self.series, self.files = plan, out, store, list(series), list(files)

    def find(self, seen: str) -> tuple[Path, list[Any]]:
        """A store, and filters that leave what may be seen of it.

        Raises:
            ConfigError: the images cannot be had in one store.
        """
        if seen == "task" and self.store is not None:
            return self.store, [["modality", "==", "CT"], ["plane", "==", "axial"], ["series_id", "in", self.series]]
        archive = Path(str(self.plan.pretrain_on)) if seen != "task" else None
        if archive is not None and not archive.exists():
            raise ConfigError(f"pretrain_on: {archive} does not exist; give a store or a folder of images")
        ready = archive is not None and is_store(archive)
        if seen == "both" and (self.store is not None or ready):
            raise ConfigError("on: both: needs a folder of pictures and a task of pictures; pre-train on one of them")
        if archive is not None and ready:
            return archive, []
        if seen != "archive" and (self.plan.data.get("images") == "head_ct" or not self.files):
            raise ConfigError(f"on: {seen}: the task has no training pictures that are the same in all cells")
        made = self.out / "data" / f"{seen}_store"
        sources = [*([archive] if archive else []), *(self.files if seen != "archive" else [])]
        how = dict(self.plan.pretrain_with)
        patients = NamedPatients(how.get("patient_from"), how.get("patients"))
        build_store(sources, made, modality="OT", patients=patients, progress=False)
        return made, []


def _encoders(plan: StudyPlan, archives: _Archives, out: Path, rerun: bool) -> dict[str, list[str]]:
    """Weights by the encoder's name; a bundle is pre-trained unless it is done."""
    found: dict[str, list[str]] = {}
    for name, source in plan.encoders.items():
        if source.bundle is None:
            found[name] = [] if source.weights is None else [source.weights]
        else:
            store, filters = archives.find(plan.seen(name))
            found[name] = [_pretrained(plan, name, seed, store, filters, out, rerun) for seed in range(source.seeds)]
    return found


def _pretrained(plan: StudyPlan, name: str, seed: int, store: Path, filters: list[Any], out: Path, rerun: bool) -> str:
    """Folder of a pre-training; what is finished is used again."""
    source = plan.encoders[name]
    assert source.bundle is not None
    run = out / "encoders" / (slug(name) + (f"-seed{seed}" if source.seeds > 1 else ""))
    mark = run / "study.sha256"
    files = [bundle_dir(source.bundle) / "configs" / "train.yaml", *map(config_file, source.overlays)]
    settings = {"arch": plan.settings.get("arch", "resnet50"), **source.settings}
    settings |= {"seed": seed} if source.seeds > 1 else {}
    settings |= {"filters": filters} if filters else {}
    seen = [] if filters else [SliceStore(store).fingerprint]
    content = digest([source.bundle, settings_of(files), settings, *seen])
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
    logger.info("pre-training %s in %s", name, run)
    pretrain(source.bundle.removeprefix("ct_ssl_"), store, run, config=source.overlays, **settings)
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
