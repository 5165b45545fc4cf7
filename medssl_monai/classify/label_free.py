"""Measures an encoder without labels, on a fixed set of slices in fixed views.

Every encoder sees the same: each slice whole, and in `VIEWS` augmented views of MoCo v2's recipe, which are drawn once.
Encoders of one architecture and image size can be compared within a run and between methods.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from monai.metrics.embedding_collapse import EmbeddingCollapseMetric
from torch import Tensor, nn
from torch.utils.data import default_collate

from medssl_monai.classify.forward import BATCH
from medssl_monai.errors import NoImagesError
from medssl_monai.statistics.embeddings import (
    alignment,
    effective_rank,
    lidar,
    nearest_in_group,
    neighbour_r2,
    uniformity,
)
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters
from medssl_monai.transforms import LabelledViewd, MultiCropViewsd
from medssl_monai.windows import WindowSpec

COUNT = 128
"""Slices that are measured."""
PER_SERIES = 4
"""Slices of a series, where there are series enough."""
IDENTITY = ("series_id", "patient", "slice")
VIEWS = 4
"""Augmented views of a slice; the first two give the alignment."""
VERSION = 1
"""Of the choice of slices and views: values of another version are not compared."""


class MeasuredSlices:
    """The slices and views on which encoders are measured.

    Args:
        store: holds the slices.
        filters: which are considered, see `SliceStore.select`.
        image_size: of the views, in pixels.
        window: of the views, see `LabelledViewd`.
        mean: of intensities in [0, 1].
        std: their standard deviation.
        channel_spacing_mm: of the views, see `LabelledViewd`.
        count: slices, of series that are evenly spread over the store, `PER_SERIES` or more of each.

    Raises:
        NoImagesError: the filters leave fewer than two slices.

    Example:
        >>> slices = MeasuredSlices(SliceStore("STORE"), image_size=64, window="wide")  # doctest: +SKIP
        >>> slices.measure(encoder)["effective_rank"]  # doctest: +SKIP
        31.7
    """

    def __init__(
        self,
        store: SliceStore,
        filters: Filters | None = None,
        *,
        image_size: int | Sequence[int] = 224,
        window: WindowSpec = "wide",
        mean: float | Sequence[float] = 0.25,
        std: float | Sequence[float] = 0.25,
        channel_spacing_mm: float = 0.0,
        count: int = COUNT,
    ) -> None:
        self.store = store
        view: dict[str, Any] = {"window": window, "mean": mean, "std": std}
        view |= {"channel_spacing_mm": channel_spacing_mm} if channel_spacing_mm else {}
        self.rows = chosen_rows(store, filters, count)
        if len(self.rows) < 2:
            raise NoImagesError(
                f"store {store.place}: encoders are compared on two slices or more, and the filters leave "
                f"{len(self.rows)}; change filters=[…]"
            )
        self.series = _numbered(row["series_id"] for row in self.rows)
        self.patients = _numbered(row["patient"] for row in self.rows)
        self.places = torch.tensor([row["place"] for row in self.rows])
        whole = LabelledViewd("image", image_size=image_size, augment=False, **view)
        crops: dict[str, Any] = {"counts": [VIEWS], "sizes": [image_size], "scales": [[0.2, 1.0]]}
        augmented = MultiCropViewsd("image", seed=0, **crops, **view)

        def views(item: dict[str, Any]) -> list[Tensor]:
            return [whole(item)["image"], *augmented(item)["views"]]

        known = [{name: row[name] for name in ("series_id", "slice")} for row in self.rows]
        self.dataset = SliceDataset(store, rows=known, transform=views, channel_spacing_mm=channel_spacing_mm)
        content = [VERSION, store.fingerprint, [list(row.values()) for row in known], image_size, view]
        self.digest = hashlib.sha256(json.dumps(content, default=list).encode()).hexdigest()[:16]
        """16 hex digits that differ for other slices or views."""

    @property
    def undefined(self) -> dict[str, str]:
        """Measures that these slices do not allow, each with the reason."""
        series = len({row["series_id"] for row in self.rows})
        if series in (1, len(self.rows)):
            reason = "all slices are of one series" if series == 1 else "every series has a single slice"
            return {"knn_series": reason, "knn_place": reason}
        patients = {row["patient"] for row in self.rows}
        return {} if len(patients) > 1 else {"knn_place": "all slices are of one patient"}

    @torch.no_grad()
    def features(self, encoder: nn.Module) -> Tensor:
        """Features (1 + `VIEWS`, N, D) float32 of the whole slices, then of their augmented views, on the CPU.

        The encoder is in evaluation mode meanwhile; no random generator moves.
        """
        training = encoder.training
        parameter = next(encoder.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
        encoder.eval()
        parts = []
        for start in range(0, len(self.rows), BATCH):
            keys = [SampleKey(0, i) for i in range(start, min(start + BATCH, len(self.rows)))]
            views = default_collate([self.dataset[key] for key in keys])
            parts.append(torch.stack([encoder(view.to(device)).float().cpu() for view in views]))
        encoder.train(training)
        return torch.cat(parts, dim=1)

    def measure(self, encoder: nn.Module) -> dict[str, float | None]:
        """The values of `MEASURES`; None for those that these slices do not allow (`undefined`)."""
        whole, *views = self.features(encoder)
        undefined = self.undefined
        collapse = EmbeddingCollapseMetric(include_indicators=["effective_rank", "centroid_similarity", "separation"])
        indicators: Any = collapse(whole, labels=None if "knn_series" in undefined else self.series)
        values = {
            "effective_rank": effective_rank(whole),
            "lidar": lidar(torch.stack(views, dim=1)),
            "alignment": alignment(views[0], views[1]),
            "uniformity": uniformity(whole),
            "knn_series": nearest_in_group(whole, self.series),
            "knn_place": neighbour_r2(whole, self.places, self.patients),
            "embedding_collapse": float(indicators["aggregate"]),
        }
        return {name: None if name in undefined else value for name, value in values.items()}


def chosen_rows(store: SliceStore, filters: Filters | None, count: int = COUNT) -> list[dict[str, Any]]:
    """About `count` slices of evenly spread series, evenly spread over each.

    Returns:
        ``series_id``, ``patient``, ``slice``, and ``place`` in [0, 1] from the lowest slice of the series that the
        filters leave to the highest; 0 where there is one.
    """
    selection = store.selection(filters)
    series = selection.rows["series_id"]  # the index has one after another, and their slices in order
    firsts = np.flatnonzero(np.diff(series, prepend=-1)).tolist()
    every = [range(first, last) for first, last in pairwise([*firsts, len(selection)])]
    if not every:
        return []
    each = max(PER_SERIES, -(-count // len(every)))
    typical = sum(min(len(rows), each) for rows in every) / len(every)
    chosen = []
    for rows in _spread(every, round(count / typical)):
        lowest, highest = (selection.row(end)["slice"] for end in (rows[0], rows[-1]))
        for number in _spread(rows, each):
            row = {name: value for name, value in selection.row(number).items() if name in IDENTITY}
            chosen.append({**row, "place": (row["slice"] - lowest) / max(1, highest - lowest)})
    return chosen


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most so many items, evenly spread, the first and the last among them."""
    if count >= len(items):
        return list(items)
    return [items[round(i)] for i in torch.linspace(0, len(items) - 1, max(1, count)).tolist()]


def _numbered(names: Iterable[str]) -> Tensor:
    """Names as numbers from 0, in the order in which they come."""
    numbers: dict[str, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in names])
