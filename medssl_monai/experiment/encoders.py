"""Encoders that a study compares: checked, and pre-trained once on images that may be seen."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.experiment.made_by import made_by, settings_of
from medssl_monai.experiment.plan import StudyPlan, digest, slug
from medssl_monai.experiment.set_aside import set_aside
from medssl_monai.ingest import build_store
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.labels.audit import compare
from medssl_monai.labels.audit_sets import AuditSet, store_set
from medssl_monai.plain_text import plain_text
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.store.places import is_store, store_at

logger = logging.getLogger(__name__)

REMEDY = "give --rerun to make again what other code made"
SHOWN = 5


class Archives:
    """The unlabelled images that encoders are pre-trained on, as stores; each made when it is first asked for.

    What they share with the test images is logged, and counted in ``overlap``; that is None where nothing was compared.

    Args:
        archive: a store, or a folder of images; None pre-trains on the task's images.
        out: the study's folder.
        store: holds the task's slices in HU; None for pictures.
        series: of the store, those of the training patients.
        files: training pictures of a task without a store.
        tested: gives the images that encoders are tested on.
        how: ``patient_from`` and ``patients`` of the archive, see `NamedPatients`.
    """

    def __init__(
        self,
        archive: str | Path | None,
        out: Path,
        *,
        store: Path | None = None,
        series: Sequence[str] = (),
        files: Sequence[Path] = (),
        tested: Callable[[], Sequence[AuditSet]] = tuple,
        how: Mapping[str, Any] | None = None,
    ) -> None:
        self.archive, self.out, self.store = None if archive is None else Path(archive), out, store
        self.series, self.files, self.tested = list(series), list(files), tested
        self.patients = NamedPatients((how or {}).get("patient_from"), (how or {}).get("patients"))
        self.overlap: int | None = None
        self._made: dict[str, Path] = {}

    def find(self, seen: str) -> tuple[Path, list[Any]]:
        """A store, and filters that leave what may be seen of it; no filters leave the bundle's own.

        Args:
            seen: ``archive``, ``task`` or ``both``.

        Raises:
            ConfigError: the archive does not exist, or the images cannot be had in one store.
        """
        if seen == "task" and self.store is not None:
            return self.store, [["modality", "==", "CT"], ["plane", "==", "axial"], ["series_id", "in", self.series]]
        if seen not in self._made:
            self._made[seen] = self._make(seen)
            if seen != "task":
                self._compare(self._made[seen])
        return self._made[seen], []

    def _make(self, seen: str) -> Path:
        archive = self.archive if seen != "task" else None
        if archive is not None and not (archive.exists() or is_store(archive)):
            raise ConfigError(f"pretrain_on: {archive} does not exist; give a store or a folder of images")
        ready = archive is not None and is_store(archive)
        if seen == "both" and (self.store is not None or ready):
            raise ConfigError("on: both: needs a folder of pictures and a task of pictures; pre-train on one of them")
        if archive is not None and ready:
            return archive
        if seen != "archive" and not self.files:
            raise ConfigError(f"on: {seen}: the task has no training pictures that are the same in all cells")
        made = self.out / "data" / f"{seen}_store"
        sources = [*([archive] if archive else []), *(self.files if seen != "archive" else [])]
        modality = "OT" if self.store is None else "CT"
        build_store(sources, made, modality=modality, patients=self.patients, progress=False)
        return made

    def _compare(self, path: Path) -> None:
        """Say which test images, or patients of theirs, an encoder will have seen."""
        seen = store_set(path)
        report = compare([seen, *self.tested()])
        alike = [one for one in report.near_duplicates if seen.name in (one.first, one.second) and not one.harmless]
        shared = [one for one in report.shared if seen.name in (one.first, one.second) and not one.harmless]
        found = len(alike) + sum(len(one.names) for one in shared)
        self.overlap = max(self.overlap or 0, found)
        for one in shared:
            logger.warning("pre-training and test images share %d %s", len(one.names), one.what)
        for pair in alike[:SHOWN]:
            names = map(plain_text, (pair.first_series, pair.second_series))
            logger.warning("pre-training and test: %s and %s look alike", *names)
        if len(alike) > SHOWN:
            logger.warning("pre-training and test: and %d more pairs that look alike", len(alike) - SHOWN)


def check_encoders(plan: StudyPlan) -> None:
    """Refuse encoders that cannot be had, before hours of training.

    Raises:
        ConfigError: a bundle or an overlay does not exist.
        CheckpointError: weights are missing, or another network's.
    """
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


def make_encoders(plan: StudyPlan, archives: Archives, out: Path, rerun: bool) -> dict[str, list[str]]:
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
    settings = {"arch": plan.settings.get("arch", "resnet50"), **({"filters": filters} if filters else {})}
    settings |= {**source.settings, **({"seed": seed} if source.seeds > 1 else {})}
    seen = [] if filters else [store_at(store).fingerprint]
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
