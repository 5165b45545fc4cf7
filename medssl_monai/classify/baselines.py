"""What a network has to beat: a linear classifier on frozen features, and a forest on a few pixels."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from medssl_monai.store.reader import SliceStore

__all__ = ["encoder_features", "linear_probe", "pixel_forest"]

Floats = npt.NDArray[np.floating[Any]]
LabelledSlices = tuple[SliceStore, Sequence[dict[str, Any]]]


@torch.no_grad()
def encoder_features(
    encoder: nn.Module,
    dataset: Dataset[dict[str, Any]],
    batch_size: int = 32,
    device: str | torch.device = "cpu",
) -> Floats:
    """Features of a frozen encoder in evaluation mode.

    Args:
        encoder: (B, 3, H, W) -> (B, D).
        dataset: items with ``image`` (3, H, W).
        batch_size: images a forward pass.
        device: where the encoder lies.

    Returns:
        (N, D) float32.
    """
    encoder.eval()
    parts = [
        encoder(batch["image"].to(device)).float().cpu().numpy()
        for batch in tqdm(DataLoader(dataset, batch_size=batch_size), desc="features", unit="batch")
    ]
    return np.concatenate(parts)


def linear_probe(
    train_features: Floats, train_labels: Sequence[int], test_features: Floats, classes: int, *, seed: int = 0
) -> Floats:
    """Probabilities (N, classes) of a logistic regression on standardised features."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, random_state=seed))
    model.fit(train_features, train_labels)
    return _spread(model.predict_proba(test_features), model.classes_, classes)


def pixel_forest(train: LabelledSlices, test: LabelledSlices, classes: int, *, side: int = 32, seed: int = 0) -> Floats:
    """Probabilities (N, classes) of a random forest on slices shrunk to ``side`` × ``side`` pixels in HU.

    Each slice is stretched to a square by area averaging; a forest does not care for the scale of its inputs.

    Args:
        train: store and labelled rows that are learned from.
        test: store and rows that are judged.
        classes: number of classes.
        side: pixels a side.
        seed: of the forest.
    """
    model = RandomForestClassifier(n_estimators=500, random_state=seed, n_jobs=-1)
    model.fit(_thumbnails(*train, side), [row["label"] for row in train[1]])
    return _spread(model.predict_proba(_thumbnails(*test, side)), model.classes_, classes)


def _thumbnails(store: SliceStore, rows: Sequence[dict[str, Any]], side: int) -> Floats:
    slices = (store.read(row["series_id"], row["slice"]).astype(np.float32) for row in rows)
    return np.stack([cv2.resize(s, (side, side), interpolation=cv2.INTER_AREA).ravel() for s in slices])


def _spread(probabilities: Floats, seen: Sequence[int], classes: int) -> Floats:
    """Columns for all classes, also those that no training slice has."""
    full = np.zeros((len(probabilities), classes))
    full[:, list(seen)] = probabilities
    return full
