"""How well frozen features predict labels: nearest neighbours and a linear classifier, tested on left-out patients.

Where there are no labels, ingestion provides some: plane, kernel, body part, place of the slice in its series.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torch import nn
from torch.utils.data import Dataset

from medssl_monai.classify.forward import BATCH, forward
from medssl_monai.errors import LabelError
from medssl_monai.labels.labelled_slices import labelled_slices
from medssl_monai.labels.table import read_labels
from medssl_monai.statistics.metrics import balanced_accuracy
from medssl_monai.store.pseudonyms import load_key
from medssl_monai.store.reader import SliceStore

Floats = npt.NDArray[np.floating[Any]]


NEIGHBOURS = 5

FREE_COLUMNS = ("plane", "kernel", "body_part")
QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")


def free_labels(rows: Sequence[Mapping[str, Any]], lengths: Mapping[str, int]) -> dict[str, list[str]]:
    """Label names of each slice that the index gives for nothing; only columns that hold at least two values.

    ``place`` is the quarter of its series in which a slice lies, from the lowest.

    Args:
        rows: of the index.
        lengths: slices of each series, see `series_lengths`.
    """
    labels = {
        column: [str(row.get(column) or "unknown") for row in rows]
        for column in FREE_COLUMNS
        if len({row.get(column) for row in rows if row.get(column)}) > 1
    }
    labels["place"] = [QUARTERS[4 * row["slice"] // lengths[row["series_id"]]] for row in rows]
    return labels


def series_lengths(store: SliceStore, series: Iterable[str]) -> dict[str, int]:
    """Number of slices of each of some series, filtered or not, by one pass over the index."""
    found: Counter[str] = Counter()
    for table in store.tables([["series_id", "in", sorted(set(series))]], ["series_id"]):
        for entry in table["series_id"].value_counts().to_pylist():
            found[entry["values"]] += entry["counts"]
    return dict(found)


def labelled_rows(
    labels: str | Path | None, store: SliceStore, key: bytes | None = None
) -> list[dict[str, Any]] | None:
    """The training rows of a label table (all rows where it has no split) that a store holds; None for no table.

    Raises:
        LabelError: the table does not fit the store, see `labelled_slices`; or none of its rows is for training.
    """
    if labels is None:
        return None
    table = read_labels(Path(labels))
    rows = labelled_slices(table, store, key or load_key(), split="train" if table.has_split else None)
    if not rows:
        raise LabelError(f"{labels}: no row of the split 'train' to probe; fill the column 'split' with it")
    return rows


def probe(features: Floats, labels: Sequence[str], patients: Sequence[str], *, folds: int = 3) -> dict[str, Any]:
    """Balanced accuracy of a kNN (cosine, k = 5) and of a logistic regression on standardised features.

    Args:
        features: (N, D).
        labels: name per slice, two or more different ones.
        patients: per slice; no patient is on both sides of a fold.
        folds: at most; fewer where there are fewer patients.

    Returns:
        ``knn``, ``linear``, ``chance`` (one over the number of classes), and ``left_out``: ``patients``, or ``slices``
        where patients cannot be left out because there is only one, or a class would be missing.
    """
    _, truth = np.unique(np.asarray(labels), return_inverse=True)
    splits, left_out = _splits(truth, np.asarray(patients), folds)
    knn = make_pipeline(Normalizer(), KNeighborsClassifier(NEIGHBOURS))
    linear = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    result: dict[str, Any] = {}
    for name, model in (("knn", knn), ("linear", linear)):
        predicted = np.empty_like(truth)
        for train, test in splits:
            predicted[test] = model.fit(features[train], truth[train]).predict(features[test])
        result[name] = balanced_accuracy(truth, predicted)
    return {**result, "chance": 1 / len(np.unique(truth)), "left_out": left_out}


def _splits(
    truth: npt.NDArray[np.integer[Any]], patients: npt.NDArray[np.str_], folds: int
) -> tuple[list[tuple[Any, Any]], str]:
    groups = len(np.unique(patients))
    if groups > 1:
        splits = list(GroupKFold(min(folds, groups)).split(truth, truth, patients))
        if all(len(np.unique(truth[train])) == len(np.unique(truth)) for train, _ in splits):
            return splits, "patients"
    smallest = int(np.bincount(truth).min())
    return list(StratifiedKFold(max(2, min(folds, smallest))).split(truth, truth)), "slices"


def linear_probe(train: Floats, labels: npt.ArrayLike, test: Floats, classes: int, *, seed: int = 0) -> Floats:
    """Probabilities (N, C) of a logistic regression on standardised features; of several labels one for each.

    Args:
        train: (M, D) features that are learned from.
        labels: (M,) class indices, or (M, C) with 1 where a label holds.
        test: (N, D) features that are judged.
        classes: C.
        seed: of the regression's solver.
    """
    truth = np.asarray(labels)
    if truth.ndim == 1:
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed))
        model.fit(train, truth)
        return _for_all_classes(model.predict_proba(test), model.classes_, classes)
    columns = []
    for held in truth.astype(int).T:
        if held.min() == held.max():  # only one answer was seen, and it is returned
            columns.append(np.full(len(test), float(held[0])))
        else:
            columns.append(linear_probe(train, held, test, 2, seed=seed)[:, 1])
    return np.stack(columns, axis=1)


def nearest_votes(train: Floats, labels: npt.NDArray[Any], test: Floats, classes: int) -> Floats:
    """Votes (N, C) of the five nearest by cosine, weighted by nearness; arguments as of `linear_probe`."""
    held = labels if labels.ndim == 2 else labels[:, None] == np.arange(classes)
    model = make_pipeline(Normalizer(), KNeighborsRegressor(min(NEIGHBOURS, len(labels)), weights="distance"))
    return np.asarray(model.fit(train, held.astype(np.float64)).predict(test))


def encoder_features(encoder: nn.Module, dataset: Dataset[dict[str, Any]], batch_size: int = BATCH) -> Floats:
    """Features (N, D) float32 of a frozen encoder in evaluation mode.

    Args:
        encoder: (B, 3, H, W) -> (B, D).
        dataset: items with ``image`` (3, H, W).
        batch_size: images a forward pass.
    """
    return np.concatenate([out for _, out in forward(encoder, dataset, batch_size, description="features")])


def _for_all_classes(probabilities: Floats, seen: Sequence[int], classes: int) -> Floats:
    """Columns for all classes, also those that no training slice has."""
    full = np.zeros((len(probabilities), classes))
    full[:, list(seen)] = probabilities
    return full
