"""Labels and the slices they speak of, ready for a dataset."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from torch.utils.data import Dataset

from medssl_monai.downstream.class_balance import balanced_positions
from medssl_monai.downstream.subsets import Unit, nested_subset
from medssl_monai.errors import LabelError
from medssl_monai.ingest.cached import open_store
from medssl_monai.ingest.labels import read_labels, resolve
from medssl_monai.ingest.pseudonyms import load_key
from medssl_monai.ingest.slice_dataset import SliceDataset
from medssl_monai.ingest.store import SliceStore

__all__ = ["LabelledData"]

logger = logging.getLogger(__name__)


class LabelledData:
    """A label table joined with the slices of a store.

    Args:
        labels: CSV or JSON table ``source,slice,label,patient,split``.
        store_dir: store that holds the sources; None ingests those that are paths, once, into a cache.
        classes: class names in the order of the network's outputs; None takes the table's own, sorted.
        cache_dir: where such stores are kept.
        key: file of the pseudonym key; by default the user's own.
        fraction: share of the training slices that is used, in (0, 1], see `nested_subset`; other splits stay whole.
        subset_unit: whether whole patients are drawn for it, or slices within each patient.
        subset_seed: of that draw.

    Raises:
        ConfigError: the fraction is not in (0, 1], or the unit is unknown.
        LabelError: the table does not fit: see `read_labels` and `resolve`; or it has a class the network lacks.
    """

    def __init__(
        self,
        labels: str | Path,
        store_dir: str | Path | None = None,
        classes: Sequence[str] | None = None,
        cache_dir: str | Path | None = None,
        key: str | Path | None = None,
        fraction: float = 1.0,
        subset_unit: Unit = "patients",
        subset_seed: int = 0,
    ) -> None:
        self.table = read_labels(Path(labels))
        self._key = load_key(None if key is None else Path(key))
        self.classes = list(classes) if classes else list(self.table.classes)
        unknown = sorted(set(self.table.classes) - set(self.classes))
        if unknown:
            raise LabelError(
                f"{labels}: the label {unknown[0]!r} is not a class of this network, which knows "
                f"{', '.join(self.classes)}; correct the table or fine-tune a network for it"
            )
        self.fraction, self.subset_unit, self.subset_seed = fraction, subset_unit, subset_seed
        nested_subset([0], [""], fraction, unit=subset_unit)  # refuses what it does not know before files are read
        self.store = self._open(store_dir, cache_dir)

    @property
    def fingerprint(self) -> str:
        """The store's."""
        return self.store.fingerprint

    def rows(self, split: str) -> list[dict[str, Any]]:
        """The labelled slices of one split, for `SliceDataset`.

        A table without a ``split`` column serves whole for training and for testing, and has no validation part.
        """
        if not self.table.has_split and split == "validation":
            return []
        rows = self._resolve(split if self.table.has_split else None)
        if split != "train" or self.fraction == 1 or not rows:
            return rows
        labels, patients = [row["label"] for row in rows], [row["patient"] for row in rows]
        kept = nested_subset(labels, patients, self.fraction, unit=self.subset_unit, seed=self.subset_seed)
        logger.info("%d of %d training slices are used (%s)", len(kept), len(rows), self.subset_unit)
        return [rows[i] for i in kept]

    def labels_of(self, split: str) -> list[int]:
        """Class index of each slice of a split, in the order of its dataset."""
        return [row["label"] for row in self.rows(split)]

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
        rows = resolve(self.table, self.store, self._key, split=split)
        names = list(self.table.classes)
        for row in rows:
            row["label"] = self.classes.index(names[row["label"]])
        return rows

    def _open(self, store_dir: str | Path | None, cache_dir: str | Path | None) -> SliceStore:
        if store_dir is not None:
            return SliceStore(store_dir)
        paths = sorted({Path(row.source) for row in self.table.rows})
        missing = [p for p in paths if not p.exists()]
        if missing:
            raise LabelError(
                f"{self.table.path}: the source {missing[0].name!r} is not a file or folder; correct the path, or give "
                "the store that holds the series with store_dir=STORE"
            )
        return open_store(paths, cache_dir=cache_dir, key=self._key)
