"""What a study's cells read: labels and store, made once; encoders, pre-trained once; all on training patients only."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.overview import contradicting, write_overview
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.leaks import picture_sets
from medssl_monai.classify.pictures.published import image_task
from medssl_monai.experiment.archives import Archives
from medssl_monai.experiment.encoders import check_encoders, make_encoders
from medssl_monai.experiment.plan import StudyPlan, digest
from medssl_monai.ingest import build_store
from medssl_monai.labels.audit_sets import slice_set
from medssl_monai.labels.labelled_slices import write_labelled_slices
from medssl_monai.labels.names import SPLITS
from medssl_monai.labels.subsets import Unit, choose_unit
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.samples.phantom import write_phantom

logger = logging.getLogger(__name__)

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
        overlap: number of test images, or of patients, that the images of a pre-training also show; None where the
            study pre-trains on nothing but the task's training images.
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
    overlap: int | None = None

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
    check_encoders(plan)
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
    archives = Archives(
        plan.pretrain_on,
        out,
        store=Path(data.store.place),
        series=sorted({row["series_id"] for row in data.rows("train")}),
        tested=lambda: [slice_set("test", "test", "data", data.store, data.rows("test"))],
        how=plan.pretrain_with,
    )
    train = data.rows("train")
    patients = [row["patient"] for row in train]
    splits = SPLITS if data.table.has_split else ("train",)
    rows = [row for split in splits for row in data.rows(split)]
    table = digest([(row["series_id"], row["slice"], row["label_name"]) for row in [*train, *data.rows("test")]])
    return StudyInputs(
        overrides={
            "dataset_dir": str(write_labelled_slices(out / "data" / "labels.csv", rows)),
            "store_dir": data.store.place,
            "classes": data.classes,
        },
        overlays=overlays,
        unit=choose_unit(patients, min(plan.fractions)),
        classes=data.classes,
        train_patients=len(set(patients)),
        fingerprint=digest([data.fingerprint, table]),
        encoders=make_encoders(plan, archives, out, rerun),
        overlap=archives.overlap,
    )


def _pictures(plan: StudyPlan, overlays: list[Path], out: Path, rerun: bool) -> StudyInputs:
    name, root, patients = plan.data["images"], plan.data["root"], plan.data.get("patients")
    overlays = [config_file(f"finetune_{name}"), *overlays]
    data = image_task(name, root, patients=patients)
    wrong = contradicting(write_overview(data, out / "data"))
    if wrong is None:
        logger.warning("pictures that stand in two classes were not looked for, because the audit did not run")
    elif wrong:
        logger.warning("%d pictures stand in two classes, and are not learned from: %s", len(wrong), ", ".join(wrong))
    wrong = wrong or []
    places = {data.file_of(place): place for place in range(len(data.images))}
    positions = data.splits["train"]
    owners = [data.patients[i] for i in positions]
    learned = [place for place in positions if data.file_of(place) not in wrong]
    # With folds every training picture is tested on in some cell.
    paths = data.images.paths if isinstance(data.images, ImageFiles) and not data.folds else []
    archives = Archives(
        plan.pretrain_on,
        out,
        files=[paths[place] for place in learned] if paths else [],
        tested=lambda: [one for one in picture_sets(data) if one.kind == "test" or data.folds],
        how=plan.pretrain_with,
    )
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
        encoders=make_encoders(plan, archives, out, rerun),
        contradicting=frozenset(data.key(places[one])[0] for one in wrong),
        folds=data.folds,
        overlap=archives.overlap,
    )
