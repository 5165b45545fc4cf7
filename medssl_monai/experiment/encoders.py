"""Encoders that a study compares: checked, and pre-trained once on images that may be seen."""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from medssl_monai.atomic import write_json, write_text
from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.experiment.archives import Archives
from medssl_monai.experiment.made_by import made_by, settings_of
from medssl_monai.experiment.plan import StudyPlan, digest, slug
from medssl_monai.experiment.set_aside import set_aside
from medssl_monai.experiment.side_by_side import into_log, side_by_side
from medssl_monai.progress import progress_bar
from medssl_monai.resources import bundle_dir, config_file, encoder_path
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.store.places import store_at

logger = logging.getLogger(__name__)

REMEDY = "give --rerun to make again what other code made"


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


@dataclass(frozen=True)
class Pretraining:
    """One pre-training of a study.

    Attributes:
        name: of the encoder.
        folder: of the run.
        bundle: without ``ct_ssl_``.
        store: what it learns from.
        overlays: names or files.
        settings: top-level keys.
        content: digest of all that decides the weights.
        maker: versions and code that make it.
    """

    name: str
    folder: Path
    bundle: str
    store: Path
    overlays: tuple[str, ...]
    settings: Mapping[str, Any]
    content: str
    maker: Mapping[str, str]

    @property
    def begun(self) -> Path:
        """Holds `content` from the start of the run; hidden, as a run begins in an empty folder."""
        return self.folder / ".begun.sha256"

    @property
    def mark(self) -> Path:
        """Holds `content` when the run is finished."""
        return self.folder / "study.sha256"

    @property
    def note(self) -> Path:
        """Holds `maker` likewise."""
        return self.folder / "study_made_by.json"


def make_encoders(plan: StudyPlan, archives: Archives, out: Path, rerun: bool) -> dict[str, list[str]]:
    """Weights by the encoder's name; a bundle is pre-trained unless it is done.

    With ``workers`` of the plan, pre-trainings run side by side, and each writes a log beside its folder.
    """
    found: dict[str, list[str]] = {}
    missing: list[Pretraining] = []
    for name, source in plan.encoders.items():
        if source.bundle is None:
            found[name] = [] if source.weights is None else [source.weights]
        else:
            store, filters = archives.find(plan.seen(name))
            runs = [_pretraining(plan, name, seed, store, filters, out) for seed in range(source.seeds)]
            missing += [run for run in runs if not _finished(run, out, rerun)]
            found[name] = [str(run.folder) for run in runs]
    if plan.workers == 1 or len(missing) < 2:
        for run in missing:
            logger.info("pre-training %s in %s", run.name, run.folder)
            _pretrain(run)
    else:
        logger.info("pre-training %d encoders in %s; each has a log there", len(missing), out / "encoders")
        with progress_bar(total=len(missing), desc="pre-training", unit="encoder") as bar:
            for _ in side_by_side(_pretrain_with_log, missing, plan.workers):
                bar.update()
    return found


def _pretraining(plan: StudyPlan, name: str, seed: int, store: Path, filters: list[Any], out: Path) -> Pretraining:
    source = plan.encoders[name]
    assert source.bundle is not None
    files = [bundle_dir(source.bundle) / "configs" / "train.yaml", *map(config_file, source.overlays)]
    settings = {"arch": plan.settings.get("arch", "resnet50"), **({"filters": filters} if filters else {})}
    settings |= {**source.settings, **({"seed": seed} if source.seeds > 1 else {})}
    seen = [] if filters else [store_at(store).fingerprint]
    return Pretraining(
        name=name,
        folder=out / "encoders" / (slug(name) + (f"-seed{seed}" if source.seeds > 1 else "")),
        bundle=source.bundle.removeprefix("ct_ssl_"),
        store=store,
        overlays=tuple(source.overlays),
        settings=settings,
        content=digest([source.bundle, settings_of(files), settings, *seen]),
        maker=made_by(pretrain.__module__, files),
    )


def _finished(run: Pretraining, out: Path, rerun: bool) -> bool:
    """Whether a run holds exactly this pre-training, finished; one that holds another is set aside."""
    held = next((mark for mark in (run.mark, run.begun) if mark.is_file()), None)
    if held is not None and held.read_text() != run.content:
        set_aside(run.folder, out, "is of other settings or images")
    if not run.mark.is_file():
        return False
    if run.note.is_file() and json.loads(run.note.read_text(encoding="utf-8")) == run.maker:
        return True
    if not rerun:
        logger.warning("the encoder %s was pre-trained by other code or libraries and is kept; %s", run.name, REMEDY)
        return True
    set_aside(run.folder, out, "was pre-trained by other code or libraries")
    return False


def _pretrain(run: Pretraining) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.begun, run.content)
    pretrain(run.bundle, run.store, run.folder, config=run.overlays, **run.settings)
    write_json(run.note, dict(run.maker))
    write_text(run.mark, run.content)


def _pretrain_with_log(run: Pretraining, threads: int) -> None:
    torch.set_num_threads(threads)
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("medssl_monai").setLevel(logging.INFO)  # in this process, which is for pre-training alone
    with into_log(run.folder.parent / f"{run.folder.name}.log"):
        _pretrain(run)


def weights_fingerprint(path: str | None) -> str | None:
    """SHA-256 of an encoder's weights; of the files of a run those in ``models``."""
    if path is None:
        return None
    source = encoder_path(path)
    files = sorted((source / "models").glob("*")) if source.is_dir() else [source]
    hashes = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()]
    if not hashes:
        raise ConfigError(f"encoder weights {source.name!r} do not exist; check the path")
    return digest(hashes)
