"""Slices of a store as a torch dataset, addressed by index or by epoch and index."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medssl_monai.errors import ConfigError, NoImagesError, StoreError
from medssl_monai.processes import process_rank
from medssl_monai.store.beside import beside_filtered, beside_rows, with_more
from medssl_monai.store.epochs import EpochDataset, SampleKey
from medssl_monai.store.places import store_at
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import COLUMNS, Filters
from medssl_monai.store.selection import USED_COLUMNS

logger = logging.getLogger(__name__)


class SliceDataset(EpochDataset):
    """Slices of a store, each a dict.

    `image` torch int16 (1, H, W) HU; `index` and `epoch` int; `spacing_mm` float32 (2,), row and column, NaN where
    unknown; `window_level` and `window_width` float, NaN where the tags gave none; `modality`, `series_id`, `patient`
    str; `slice` int; and what else a row holds that is no column of the index (a label, say). With `partners` also
    `partner` int, the index of the slice that every second view shows, and `partner_slice`, its `image`,
    `window_level`, `window_width` and `modality`.

    With `channel_spacing_mm` an `image` is (3, H, W): the slice that lies so far below, the slice itself, and the slice
    that lies so far above, see `neighbouring_slices`. All slices of the store count, also those that `filters` and
    `kept` leave out. A slice without such a neighbour takes its place; one line in the log counts these slices.

    In a plain ``DataLoader`` each pass draws fresh views; `EpochDataset` says how, and when to call `set_epoch`.

    Example:
        >>> data = SliceDataset("store", transform=TwoViewsd(seed=0, window="wide"))  # doctest: +SKIP
        >>> for epoch in range(10):  # doctest: +SKIP
        ...     for batch in DataLoader(data, batch_size=32, shuffle=True, num_workers=4):
        ...         one, other = batch["views"]  # other views of the same slices in each epoch

    Args:
        store: a store, or its folder.
        filters: which slices, see `SliceStore.select`; None for all.
        transform: applied to the dict.
        rows: which slices, in this order, instead of `filters`: dicts with at least `series_id` and `slice`, and any
            entries of their own.
        kept: positions, from 0, of the slices to take among those that the filters leave; None takes all.
        partners: gives the index of the slice that every second view of a sample shows (`positive_partners`); None: the
            slice itself.
        channel_spacing_mm: distance of the channels along the axis of the series, mm; 0 gives the slice alone, and None
            what the transform was made for.

    Raises:
        NoImagesError: the filters leave nothing.
        ConfigError: `channel_spacing_mm`, and none of the slices that the filters leave has a neighbour.
        StoreError: `rows` are given together with `filters` or `kept`, or a row names no slice of the store.
    """

    def __init__(
        self,
        store: SliceStore | str | Path,
        filters: Filters | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        rows: Sequence[Mapping[str, Any]] | None = None,
        kept: NDArray[np.integer[Any]] | None = None,
        partners: Callable[[SampleKey], int] | None = None,
        channel_spacing_mm: float | None = None,
    ) -> None:
        self.partners = partners
        if channel_spacing_mm is None:
            channel_spacing_mm = getattr(transform, "channel_spacing_mm", 0.0)
        self.channel_spacing_mm = float(channel_spacing_mm)
        self.store = store_at(store)
        self.transform = transform
        if rows is not None and (filters is not None or kept is not None):
            raise StoreError("SliceDataset: takes filters (and kept) or rows, not both; filter the rows before")
        # Arrays, not dicts: a million dicts would be copied into every worker, page by page.
        self._extra: Sequence[Mapping[str, Any]] | None = None
        if rows is None:
            self._selection = self.store.selection(filters)
            self._kept = kept
            length = len(self._selection if kept is None else kept)
        else:
            self._extra = _completed(self.store, rows)
            length = len(rows)
        if length == 0:
            wanted = f"filters {filters!r} leave" if rows is None else "rows hold"
            hint = _overlay_hint(self.store, filters)
            raise NoImagesError(
                f"store {self.store.place}: the {wanted} no slice; the store has {len(self.store)}{hint}"
            )
        super().__init__(length)
        self._beside: NDArray[np.int32] | None = None  # (N, 2), where channels are slices
        if self.channel_spacing_mm:
            if rows is not None:
                self._beside = beside_rows(self.store, rows, self.channel_spacing_mm)
            else:
                beside = beside_filtered(self.store, filters, self.channel_spacing_mm)
                self._beside = beside if kept is None else beside[kept]
            self._tell_neighbours(self._beside, named=rows is not None)

    def __getitem__(self, key: int | SampleKey) -> Any:
        epoch, index = self.sample_key(key)
        row = self.row(index)
        pictured = self._pictured(index, row)
        sample = {
            **pictured,
            "index": index,
            "epoch": epoch,
            "spacing_mm": torch.tensor([_number(row["spacing_row_mm"]), _number(row["spacing_column_mm"])]),
            **{name: row[name] for name in ("series_id", "patient", "slice")},
            **{name: value for name, value in row.items() if name not in COLUMNS},
        }
        if self.partners is not None:
            partner = self.partners(SampleKey(epoch, index))
            sample["partner"] = partner
            sample["partner_slice"] = pictured if partner == index else self._pictured(partner, self.row(partner))
        return sample if self.transform is None else self.transform(sample)

    def _pictured(self, index: int, row: Mapping[str, Any]) -> dict[str, Any]:
        """What views are made of."""
        shown = [int(row["slice"])]
        if self._beside is not None and self.channel_spacing_mm:
            below, above = self._beside[index].tolist()
            shown = [below, *shown, above]
        read = {number: self.store.read(row["series_id"], number) for number in dict.fromkeys(shown)}
        return {
            "image": torch.from_numpy(np.stack([read[number] for number in shown])),
            "window_level": _number(row["window_level"]),
            "window_width": _number(row["window_width"]),
            "modality": row["modality"],
        }

    def _tell_neighbours(self, beside: NDArray[np.int32], *, named: bool) -> None:
        """Log how many slices have no neighbour on one side or both.

        Raises:
            ConfigError: all of them have none on either side, and they were not `named`.
        """
        lacking = beside == self._placed()[1][:, None]
        alone = int(np.count_nonzero(lacking.all(1)))
        about = f"channel_spacing_mm {self.channel_spacing_mm:g}"
        if alone == len(self) and not named:
            raise ConfigError(
                f"{about}: channels are slices of one series, so far below and above, and none of {len(self)} slices "
                "has such a neighbour (pictures never do); give another distance, or 0"
            )
        line = (
            f"{about}: {np.count_nonzero(lacking.any(1))} of {len(self)} slices have no neighbour on one side or both "
            f"({alone} on both), and are repeated there"
        )
        if lacking.any() and process_rank() == 0 and line not in self.store.told:
            self.store.told.add(line)
            logger.log(logging.WARNING if alone == len(self) else logging.INFO, "%s", line)

    def _placed(self) -> tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]], list[str]]:
        """Series (N,) as places in a list of names, number (N,), and these names."""
        if self._extra is None:
            rows = self._selection.rows if self._kept is None else self._selection.rows[self._kept]
            return rows["series_id"], rows["slice"], [name.decode() for name in self._selection.names["series_id"]]
        names = list(dict.fromkeys(row["series_id"] for row in self._extra))
        places = {name: place for place, name in enumerate(names)}
        series = np.array([places[row["series_id"]] for row in self._extra])
        return series, np.array([row["slice"] for row in self._extra]), names

    def channel_slices(self) -> tuple[NDArray[np.int64], list[tuple[str, int]]]:
        """Which slices the channels show: positions (N, channels), and more slices that positions from N on stand for.

        These are neighbours that are not among the slices of the data set, each with series and number.
        """
        if self._beside is None:
            return np.arange(len(self))[:, None], []
        series, own, names = self._placed()
        positions, more = with_more(series, own, self._beside)
        return positions, [(names[place], number) for place, number in more]

    def pixel_count(self) -> int:
        """Pixels of all slices together, with the neighbours that are channels, from the index alone."""
        if self._extra is None:
            codes = self._selection.rows["series_id"]
            counts = np.bincount(codes if self._kept is None else codes[self._kept]).tolist()
            names = (name.decode() for name in self._selection.names["series_id"])
            slices = Counter(dict(zip(names, counts, strict=False)))
        else:
            slices = Counter(row["series_id"] for row in self._extra)
        slices.update(series for series, _ in self.channel_slices()[1])
        return sum(slices.pop(series, 0) * pixels for series, pixels in self._pixels_of_series())

    def _pixels_of_series(self) -> Iterator[tuple[str, int]]:
        """The slices of a series have one size."""
        for table in self.store.tables(None, ["series_id", "rows", "columns"]):
            sizes = table.group_by(table.column_names).aggregate([])
            yield from ((row["series_id"], row["rows"] * row["columns"]) for row in sizes.to_pylist())

    def row(self, index: int) -> dict[str, Any]:
        """What is known of a slice without reading it."""
        if self._extra is not None:
            return dict(self._extra[index])
        return self._selection.row(int(index if self._kept is None else self._kept[index]))


def _overlay_hint(store: SliceStore, filters: Filters | None) -> str:
    """What to do about filters for slices in HU on a store of pictures, or the reverse, as far as the index tells."""
    others = store.count([[["modality", "==", "CT"]], [["plane", "!=", "unknown"]]])  # than of pictures
    if others == 0:
        return ", all of pictures: give `--config pictures`" if len(store) else ""
    for_pictures = any(list(one) == ["plane", "==", "unknown"] for one in filters or ())
    return ", in Hounsfield units: leave `--config pictures` out" if for_pictures else ""


def _completed(store: SliceStore, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with what the index knows of them and the caller left out."""
    known: dict[tuple[str, int], dict[str, Any]] = {}
    if not all(name in row for row in rows for name in USED_COLUMNS):
        series = [["series_id", "in", sorted({row["series_id"] for row in rows})]]
        table = store.select_table(series, USED_COLUMNS)
        known = {(row["series_id"], row["slice"]): row for row in table.to_pylist()}
    completed = []
    for row in rows:
        own = {name: value for name, value in row.items() if name not in COLUMNS}
        if known:
            key = (row["series_id"], row["slice"])
            if key not in known:
                raise StoreError(f"store {store.place}: has no slice {key[1]} of series {key[0]}; correct the row")
            completed.append({**known[key], **own})
        else:
            completed.append({**{name: row[name] for name in USED_COLUMNS}, **own})
    return completed


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
