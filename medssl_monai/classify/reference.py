"""Whether a slice is like those that a classifier learned from: its distance to the nearest of them.

Deep nearest neighbours (Sun et al. 2022, arXiv 2204.06507) on the features of several stages instead of only the last
(as Lee et al. 2018, arXiv 1807.03888, found better): each feature in deviations of the training slices, each stage with
the same weight. A distance above a quantile of known good slices is flagged.

Shapes: N slices, D features, M slices kept for reference.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from medssl_monai.atomic import write_bytes
from medssl_monai.errors import CheckpointError

Floats = npt.NDArray[np.floating[Any]]

BLOCKS = 5
"""Parts into which each series is cut where whole patients cannot be left out."""


@dataclass(frozen=True)
class Reference:
    """What new slices are held against.

    Attributes:
        features: (M, D) float32, standardised, of training slices.
        mean: (D,) of the raw features.
        scale: (D,) that standardised features were divided by.
        threshold: a larger distance is flagged.
        quantile: of the judged slices' distances that the threshold is, in (0, 1).
        judged_by: what slices those were, in words.
        judged_slices: how many.
    """

    features: Floats
    mean: Floats
    scale: Floats
    threshold: float
    quantile: float
    judged_by: str
    judged_slices: int

    def distances(self, features: Floats) -> Floats:
        """(N,) Euclidean distance of raw features (N, D) to the nearest reference slice; 0 for one of these.

        Raises:
            CheckpointError: the features are of another network.
        """
        if features.shape[1] != len(self.mean):
            raise CheckpointError(
                f"reference: holds {len(self.mean)} features a slice, the network gives {features.shape[1]}; "
                "use it with the network of the same run"
            )
        return _nearest(_standardised(features, self.mean, self.scale), self.features)

    def describe(self) -> dict[str, Any]:
        """What a reader of a result needs to know of it; JSON-ready."""
        return {
            "threshold": round(self.threshold, 4),
            "quantile": self.quantile,
            "judged_by": self.judged_by,
            "judged_slices": self.judged_slices,
            "reference_slices": len(self.features),
        }

    def write(self, path: Path) -> None:
        """As safetensors; the numbers that are not tensors stand in its header."""
        tensors: dict[str, npt.NDArray[Any]] = {
            "features": self.features.astype(np.float16),
            "mean": self.mean.astype(np.float32),
            "scale": self.scale.astype(np.float32),
        }
        about = {**self.describe(), "threshold": self.threshold}
        write_bytes(path, save(tensors, metadata={"reference": json.dumps(about)}))


def fit_reference(
    features: Floats,
    widths: Sequence[int],
    series: Sequence[str],
    patients: Sequence[str],
    labels: Sequence[Any],
    held_out: Floats | None = None,
    *,
    quantile: float = 0.99,
) -> Reference:
    """Make the reference of a classifier from its training slices.

    Args:
        features: (N, D) raw, of training slices in the order of their series.
        widths: of the stages, which add up to D.
        series: per slice.
        patients: per slice, "" where unknown.
        labels: per slice: what is compared of them is only whether they are equal.
        held_out: (V, D) of validation slices, whose distances set the threshold. Without them training slices do, each
            held against those of other patients where every label occurs in three patients or more, else against all
            but its own fifth of its series, which is too strict for new patients.
        quantile: of these distances that is the threshold.

    Returns:
        The reference.
    """
    mean = features.mean(axis=0)
    deviation = features.std(axis=0)
    # A feature that hardly moves in training would outweigh all others once it does.
    floor = np.concatenate([np.full(len(part), part.mean()) for part in _split(deviation, widths)])
    weights = np.concatenate([np.full(width, np.sqrt(width * len(widths))) for width in widths])
    scale = (deviation + 0.1 * floor + 1e-6) * weights
    standardised = _standardised(features, mean, scale).astype(np.float16).astype(np.float32)  # as it will be read
    if held_out is not None and len(held_out):
        distances = _nearest(_standardised(held_out, mean, scale), standardised)
        judged_by = "validation slices"
    else:
        groups, judged_by = _groups(np.asarray(series), np.asarray(patients), labels)
        distances = _nearest(standardised, standardised, groups)
        distances = distances[np.isfinite(distances)]
    threshold = float(np.quantile(distances, quantile)) if len(distances) else 0.0
    return Reference(standardised, mean, scale, threshold, quantile, judged_by, len(distances))


def read_reference(path: Path) -> Reference:
    """The reference in a file.

    Raises:
        CheckpointError: the file is none, or is broken.
    """
    try:
        with safe_open(path, framework="numpy") as content:
            about = json.loads((content.metadata() or {})["reference"])
            tensors = {name: content.get_tensor(name).astype(np.float32) for name in ("features", "mean", "scale")}
        return Reference(
            **tensors,
            threshold=float(about["threshold"]),
            quantile=float(about["quantile"]),
            judged_by=str(about["judged_by"]),
            judged_slices=int(about["judged_slices"]),
        )
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise CheckpointError(
            f"{path.name}: holds no reference of training slices ({type(error).__name__}); fine-tune the run again"
        ) from error


def _standardised(features: Floats, mean: Floats, scale: Floats) -> Floats:
    return ((features - mean) / scale).astype(np.float32)


def _split(values: Floats, widths: Sequence[int]) -> list[Floats]:
    return np.split(values, np.cumsum(widths)[:-1])


def _nearest(features: Floats, reference: Floats, groups: npt.NDArray[Any] | None = None) -> Floats:
    """Distance to the nearest of the reference; with ``groups`` (both are the same) to the nearest of another group."""
    squares = (reference.astype(np.float64) ** 2).sum(axis=1)
    found = []
    for start in range(0, len(features), 256):
        part = features[start : start + 256].astype(np.float64)
        squared = (part**2).sum(axis=1)[:, None] + squares - 2 * part @ reference.T.astype(np.float64)
        if groups is not None:
            squared[groups[start : start + 256, None] == groups] = np.inf
        found.append(np.sqrt(np.maximum(squared.min(axis=1), 0)))
    return np.concatenate(found)


def _groups(
    series: npt.NDArray[Any], patients: npt.NDArray[Any], labels: Sequence[Any]
) -> tuple[npt.NDArray[Any], str]:
    """A number per slice, equal for slices that are not compared with each other; and the rule in words."""
    names = np.array([str(label) for label in labels])
    if all(patients) and all(len(set(patients[names == name])) >= 3 for name in set(names)):
        return np.unique(patients, return_inverse=True)[1], "training slices, each against other patients"
    blocks = np.zeros(len(series), dtype=int)
    for number, name in enumerate(np.unique(series)):
        mine = np.flatnonzero(series == name)
        blocks[mine] = number * BLOCKS + np.arange(len(mine)) * BLOCKS // len(mine)
    return blocks, "training slices, each against other parts of the same patients: too strict for new patients"
