"""The slices of a store with the labels of a table, ready for a dataset."""

import hashlib
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from medssl_monai.classify.classes import balanced_positions, network_classes
from medssl_monai.classify.pictures.files import PICTURES
from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.ingest.open_store import open_store
from medssl_monai.labels.labelled_slices import labelled_slices
from medssl_monai.labels.queries import is_query
from medssl_monai.labels.subsets import Unit, nested_subset
from medssl_monai.labels.table import read_labels
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.places import store_at
from medssl_monai.store.pseudonyms import load_key
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.verdicts import files_by_reason

Task = Literal["multiclass", "multilabel"]

logger = logging.getLogger(__name__)


class LabelledData:
    """A label table joined with the slices of a store.

    Attributes:
        without_missing: whether rows with a source that is not in the store are left out, see `labelled_slices`.

    Args:
        labels: CSV or JSON table ``source,slice,label,patient,split``.
        store_dir: store that holds the sources; None ingests those that are paths, once, into a cache.
        classes: class names in the order of the network's outputs; None takes the table's own, sorted.
        cache_dir: where such stores are kept.
        key: the pseudonym key, or its file; by default the user's own.
        fraction: share of the training slices that is used, in (0, 1], see `nested_subset`; other splits stay whole.
        subset_unit: whether whole patients are drawn for it, or slices within each patient.
        subset_seed: of that draw.
        task: ``multiclass``, a slice has one class; or ``multilabel``, any number of them: an item's ``label`` then is
            a float32 vector (C,) with 1 where a class holds.

    Raises:
        ConfigError: the fraction is not in (0, 1], or the unit or the task is unknown; or see `network_classes`.
        LabelError: the table does not fit: see `read_labels`, `network_classes` and `labelled_slices`.
    """

    def __init__(
        self,
        labels: str | Path,
        store_dir: str | Path | None = None,
        classes: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        key: bytes | str | Path | None = None,
        fraction: float = 1.0,
        subset_unit: Unit = "patients",
        subset_seed: int = 0,
        task: Task = "multiclass",
    ) -> None:
        if task not in get_args(Task):
            raise ConfigError(f"task: must be one of {', '.join(get_args(Task))}, found {task!r}; choose one of them")
        self.table = read_labels(Path(labels), multilabel=task == "multilabel")
        self.task = task
        self.without_missing = False
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._key = key if isinstance(key, bytes) else load_key(None if key is None else Path(key))
        self.classes = network_classes(self.table, classes, task=task)
        self.fraction, self.subset_unit, self.subset_seed = fraction, subset_unit, subset_seed
        nested_subset([0], [""], fraction, unit=subset_unit)  # refuses what it does not know before files are read
        self.store = self._open(store_dir, cache_dir)

    @property
    def statements(self) -> tuple[str, ...]:
        """What the table leaves unknown, as sentences; see `LabelTable.statements`."""
        return self.table.statements

    @property
    def left_out(self) -> dict[str, int]:
        """Number of files that the store's ingestion rejected, by the reason."""
        return {f"rejected at ingestion: {reason}": files for reason, files in files_by_reason(self.store.verdicts)}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the store's fingerprint and what is trained and validated on: slices with their classes."""
        found = hashlib.sha256(f"{self.store.fingerprint} {self.classes}".encode())
        for split in ("train", "validation"):
            found.update(split.encode())
            for row in self.rows(split):
                label = row["label"] if self.task == "multiclass" else row["label"].tolist()
                found.update(f"{row['series_id']} {row['slice']} {label};".encode())
        return found.hexdigest()

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The labelled slices of one split, for `SliceDataset`.

        A table without a ``split`` column serves whole for training and for testing, and has no validation part.
        """
        if split not in self._rows:
            self._rows[split] = self._read_rows(split)
        return self._rows[split]

    def _read_rows(self, split: str) -> list[dict[str, Any]]:
        if not self.table.has_split and split == "validation":
            return []
        rows = self._resolve(split if self.table.has_split else None)
        if split != "train" or self.fraction == 1 or not rows:
            return rows
        labels, patients = np.asarray([row["label"] for row in rows]), [row["patient"] for row in rows]
        kept = nested_subset(labels, patients, self.fraction, unit=self.subset_unit, seed=self.subset_seed)
        logger.info("%d of %d training slices are used (%s)", len(kept), len(rows), self.subset_unit)
        return [rows[i] for i in kept]

    def labels_of(self, split: str) -> list[Any]:
        """Class index (multilabel: vector) of each slice of a split, in the order of its dataset."""
        return [row["label"] for row in self.rows(split)]

    def patients_of(self, split: str) -> list[str]:
        """Patient of each slice of a split, "" where unknown."""
        return [row["patient"] for row in self.rows(split)]

    def dataset(
        self, split: str, transform: Callable[[dict[str, Any]], Any], optional: bool = False, balanced: bool = False
    ) -> Dataset[dict[str, Any]]:
        """The labelled slices of a split as a dataset.

        Args:
            split: train, validation or test.
            transform: applied to each item of `SliceDataset`.
            optional: an empty split gives an empty dataset.
            balanced: the slices of rare classes come again until all classes are as common.

        Raises:
            LabelError: the split is empty and not optional.
        """
        rows = self.rows(split)
        if rows and balanced:
            rows = [rows[i] for i in balanced_positions([row["label"] for row in rows], len(self.classes))]
        if rows:
            return SliceDataset(self.store, rows=rows, transform=transform)
        if not optional:
            raise LabelError(f"{self.table.path}: no row of the split {split!r}; fill the column 'split' with it")
        return cast("Dataset[dict[str, Any]]", [])

    def _resolve(self, split: str | None) -> list[dict[str, Any]]:
        rows = labelled_slices(self.table, self.store, self._key, split=split, without_missing=self.without_missing)
        places = [self.classes.index(name) for name in self.table.classes]
        for row in rows:
            held = row["label"]
            row["label"] = self._vector([places[c] for c in held]) if self.task == "multilabel" else places[held]
        return rows

    def _vector(self, held: Sequence[int]) -> npt.NDArray[np.float32]:
        vector = np.zeros(len(self.classes), dtype=np.float32)
        vector[list(held)] = 1
        return vector

    def _open(self, store_dir: str | Path | None, cache_dir: str | Path | None) -> SliceStore:
        if store_dir is not None:
            return store_at(store_dir)
        queries = [row.number for row in self.table.rows if is_query(row.source)]
        if queries:
            raise LabelError(
                f"{self.table.path}, row {queries[0]}: a query asks a store; give the one it asks with --store "
                "(store_dir=STORE)"
            )
        paths = sorted({Path(row.source) for row in self.table.rows})
        pictures = [row.number for row in self.table.rows if Path(row.source).suffix.lower() in PICTURES]
        if pictures:
            raise LabelError(
                f"{self.table.path}, row {pictures[0]}: the source is a picture, which has no HU; give "
                "--config finetune_table for a table of pictures, and DICOM or NIfTI in a table of their own"
            )
        missing = [p for p in paths if not p.exists()]
        if missing:
            raise LabelError(
                f"{self.table.path}: the source {missing[0].name!r} is not a file or folder; correct the path, or give "
                "the store that holds the series with store_dir=STORE"
            )
        return open_store(paths, cache_dir=cache_dir, key=self._key)
