"""The unlabelled images that a study pre-trains on, and what they share with its test images."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.errors import ConfigError
from medssl_monai.ingest import build_store
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.labels.audit import compare
from medssl_monai.labels.audit_sets import AuditSet, store_set
from medssl_monai.plain_text import plain_text
from medssl_monai.store.places import is_store

logger = logging.getLogger(__name__)

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
            raise ConfigError(
                f"on: {seen}: the task has no training pictures that are the same in all cells, to pre-train on; "
                "give other pictures with --pretrain-on, without on"
            )
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
