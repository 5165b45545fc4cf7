"""What a network makes of a slice on its way to the answer: its stages' features, averaged over the picture.

Shapes: N slices, S × S pixels, D features (the channels of the stages taken, one after another).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor, nn
from torch.utils.data import Dataset

from medssl_monai.atomic import write_atomically
from medssl_monai.classify.forward import BATCH, forward

STAGES = ("layer2", "layer3", "layer4")
"""Early stages see texture and range of values, the last what the classes need: together they know more of a slice."""

Floats = npt.NDArray[np.floating[Any]]


class StageFeatures:
    """Listens to a torchvision ResNet: `take` gives the features of what has passed since it was last asked.

    A context manager; the network is left as it was.

    Args:
        network: with modules named as in ``stages``, each giving (B, C, h, w).
        stages: which are taken.

    Attributes:
        widths: channels of each stage, once features were taken; they add up to D.
    """

    def __init__(self, network: nn.Module, stages: Sequence[str] = STAGES) -> None:
        self.network, self.stages = network, tuple(stages)
        self._kept: dict[str, list[Floats]] = {name: [] for name in self.stages}
        self.widths: list[int] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> "StageFeatures":
        for name in self.stages:
            self._hooks.append(self.network.get_submodule(name).register_forward_hook(self._keeper(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._clear()

    def take(self) -> Floats:
        """(N, D) float32."""
        parts = [np.concatenate(self._kept[name]) for name in self.stages]
        self._clear()
        self.widths = [part.shape[1] for part in parts]
        return np.concatenate(parts, axis=1)

    def _clear(self) -> None:
        self._kept = {name: [] for name in self.stages}

    def _keeper(self, name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self._kept[name].append(output.detach().float().mean((2, 3)).cpu().numpy())

        return keep


@dataclass(frozen=True)
class Embedded:
    """A data set as a network saw it.

    Attributes:
        features: (N, D) float32.
        outputs: (N, C) float32, of the network's last layer.
        widths: of the stages, which add up to D.
        series: pseudonym per slice.
        slices: number per slice.
        patients: per slice, "" where unknown.
        labels: per slice an index, or a vector where several labels may hold; None where the items have none.
    """

    features: Floats
    outputs: Floats
    widths: list[int]
    series: list[str]
    slices: list[int]
    patients: list[str]
    labels: npt.NDArray[Any] | None


def embed(
    network: nn.Module, dataset: Dataset[dict[str, Any]], batch_size: int = BATCH, stages: Sequence[str] = STAGES
) -> Embedded:
    """Pass every item's ``image`` through a network in evaluation mode.

    ``dataset`` must not be empty; items have ``series_id``, ``slice``, ``patient`` and perhaps ``label``.
    """
    features, outputs, batches = [], [], []
    with StageFeatures(network, stages) as listener:
        for batch, output in forward(network, dataset, batch_size):
            outputs.append(output)
            features.append(listener.take())
            batches.append({name: batch[name] for name in ("series_id", "slice", "patient", "label") if name in batch})
        return Embedded(
            np.concatenate(features),
            np.concatenate(outputs),
            listener.widths,
            [one for batch in batches for one in batch["series_id"]],
            [int(one) for batch in batches for one in batch["slice"]],
            [one for batch in batches for one in batch["patient"]],
            np.concatenate([np.asarray(batch["label"]) for batch in batches]) if "label" in batches[0] else None,
        )


def write_features(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with ``series_id``, ``slice``, ``patient`` and ``features`` (D,), sorted by series and slice."""
    rows = sorted(rows, key=lambda row: (row["series_id"], row["slice"]))
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in ("series_id", "slice", "patient")}
    columns["features"] = pa.array([row["features"] for row in rows], pa.list_(pa.float32()))
    write_atomically(path, lambda p: pq.write_table(pa.table(columns), p))
