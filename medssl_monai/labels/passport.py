"""The passport of weights: prints of slices that they learned from, so that overlaps are found without the data.

It holds no pixels, names or identifiers. docs/weights.md says what it reveals.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medssl_monai.checkpoints.files import PASSPORT, read_header
from medssl_monai.errors import CheckpointError, NoImagesError
from medssl_monai.labels.audit_sets import LEAST_BODY, AuditSet
from medssl_monai.progress import progress_bar
from medssl_monai.store.beside import beside_filtered
from medssl_monai.store.prints import BITS, Prints, print_distances, slice_prints, turned_prints, unpacked
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters

VERSION = 1
MOST_SLICES, FEWEST_OF_SERIES = 8192, 8
"""A passport of so many CT slices has about 1 MB. Where every series would have fewer than that, some are left out."""

DISTANCE = 30
"""Bits of 256 in which a slice's print may differ. docs/results.md has what this finds, and what it takes for seen."""


class Seen(NamedTuple):
    """A slice of a set that looks like one in a passport: that one's series, counted from 0, and the bits between."""

    series_id: str
    slice: int
    passport_series: int
    bits: int


@dataclass(frozen=True)
class Passport:
    """What weights carry of the slices that they learned from.

    Attributes:
        prints: (P, 32) uint8, see `slice_prints`.
        owners: (P,) int32, to which series a print belongs, counted from 0 in an order that says nothing.
        slices: number of slices that the prints are of.
        slices_used: number of slices of the training.
        series_used: number of its series.
    """

    prints: Prints
    owners: NDArray[np.int32]
    slices: int
    slices_used: int
    series_used: int

    @property
    def series(self) -> int:
        """Number of series with prints."""
        return int(self.owners.max()) + 1

    def to_text(self) -> str:
        """JSON, for the header of a file of weights."""
        counts = {name: getattr(self, name) for name in ("slices", "slices_used", "series_used")}
        encoded = {name: _encoded(getattr(self, name)) for name in ("prints", "owners")}
        return json.dumps({"version": VERSION, **counts, **encoded})

    def seen(self, one: AuditSet, distance: int = DISTANCE) -> list[Seen]:
        """The slices of a set that look like one that the weights learned from, in any of eight orientations.

        Args:
            one: the set. Slices that show too little are not compared.
            distance: bits of 256 in which prints may differ.
        """
        found = []
        known = unpacked(self.prints)
        items = [item for item in one.items if item.comparable]
        for item in progress_bar(items, desc=f"passport against {one.name}", unit="slice"):
            turned = turned_prints(one.pixels.read(item.series_id, item.slice), item.modality)
            nearest = print_distances(unpacked(turned), known).min(axis=0)
            place = int(nearest.argmin())
            if nearest[place] <= distance:
                found.append(Seen(item.series_id, item.slice, int(self.owners[place]), int(nearest[place])))
        return found


def make_passport(
    store: SliceStore,
    filters: Filters | None = None,
    *,
    channel_spacing_mm: float = 0,
    most: int = MOST_SLICES,
    per_series: int | None = None,
    salt: bytes | None = None,
) -> Passport:
    """Prints of all slices; where these are too many, of some that lie evenly in each series.

    Where that leaves fewer than eight slices a series, series are drawn by lot.

    Args:
        store: that weights learned from.
        filters: the slices of the training, see `SliceStore.select`.
        channel_spacing_mm: of the training. The neighbours that it saw as channels have prints too.
        most: slices at most.
        per_series: slices of one series at most; None takes as many as `most` allows, and at least 8.
        salt: decides the lot and the order of the series; None takes random bytes, which nobody then knows.

    Raises:
        NoImagesError: no slice shows enough to be recognised.

    Example:
        >>> passport = make_passport(SliceStore("STORE"))  # doctest: +SKIP
        >>> export_run("runs/spark", "encoder.safetensors", passport=passport.to_text())  # doctest: +SKIP
    """
    rows = _shown(store, filters, channel_spacing_mm)
    salt = secrets.token_bytes(16) if salt is None else salt
    by_series = [
        (series, [row for row in group if row["body_fraction"] > LEAST_BODY])
        for series, group in groupby(rows, key=itemgetter("series_id"))
    ]
    if per_series is None:
        per_series = _slices_of_each([len(group) for _, group in by_series], most)
    drawn = sorted(by_series, key=lambda pair: hashlib.sha256(salt + pair[0].encode()).digest())
    chosen: list[list[Mapping[str, Any]]] = []
    left = most
    for _, group in drawn:
        evenly = _evenly(group, per_series)
        if evenly and len(evenly) <= left:
            chosen.append(evenly)
            left -= len(evenly)
    if not chosen:
        raise NoImagesError(f"store {store.place}: no slice shows enough of a body for a passport; export without one")
    prints, owners = [], []
    slices = [(number, row) for number, group in enumerate(chosen) for row in group]
    for number, row in progress_bar(slices, desc="passport", unit="slice"):
        of_slice = np.unique(slice_prints(store.read(row["series_id"], row["slice"]), row["modality"]), axis=0)
        prints.append(of_slice)
        owners += [number] * len(of_slice)
    return Passport(np.concatenate(prints), np.array(owners, np.int32), len(slices), len(rows), len(by_series))


def _shown(store: SliceStore, filters: Filters | None, channel_spacing_mm: float) -> list[dict[str, Any]]:
    """The slices that a training saw, in the index's order."""
    columns = ["series_id", "slice", "modality", "body_fraction"]
    rows: list[dict[str, Any]] = store.select_table(filters, columns).to_pylist()
    if not channel_spacing_mm:
        return rows
    beside = beside_filtered(store, filters, channel_spacing_mm)
    seen = {
        (row["series_id"], number)
        for row, two in zip(rows, beside.tolist(), strict=True)
        for number in (row["slice"], *two)
    }
    every = store.select_table(None, columns).to_pylist()
    return [row for row in every if (row["series_id"], row["slice"]) in seen]


def read_passport(path: str | Path) -> Passport:
    """The passport in a safetensors file.

    Raises:
        CheckpointError: the file cannot be read, carries no passport, or one that is damaged or of another version.
    """
    path = Path(path)
    text = read_header(path).get(PASSPORT)
    if text is None:
        raise CheckpointError(
            f"{path.name}: carries no passport of the slices that it learned from, so overlaps cannot be found; export "
            "it again by `medssl export RUN --out FILE.safetensors --data STORE`, or audit the store itself"
        )
    return _parsed(text, path.name)


def _parsed(text: str, name: str) -> Passport:
    """A passport from somebody else's file."""
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise CheckpointError(
                f"{name}: its passport has version {content['version']}, and this program reads version {VERSION}; "
                "use the version of medssl-monai that wrote it"
            )
        prints = np.frombuffer(base64.b64decode(content["prints"], validate=True), np.uint8).reshape(-1, BITS // 8)
        owners = np.frombuffer(base64.b64decode(content["owners"], validate=True), "<i4").astype(np.int32)
        counts = [int(content[key]) for key in ("slices", "slices_used", "series_used")]
    except (ValueError, KeyError, TypeError, binascii.Error) as error:
        raise CheckpointError(f"{name}: its passport is damaged ({error}); copy or export the file again") from error
    if len(prints) == 0 or len(prints) != len(owners) or owners.min() < 0:
        raise CheckpointError(f"{name}: its passport is damaged (its prints do not fit); copy or export the file again")
    return Passport(prints, owners, *counts)


def _slices_of_each(sizes: Sequence[int], most: int) -> int:
    """The greatest number of slices a series, of at least `FEWEST_OF_SERIES`, that are not more than `most` in all."""
    counts = range(FEWEST_OF_SERIES, max([FEWEST_OF_SERIES, *sizes]) + 1)
    return FEWEST_OF_SERIES + sum(int(np.minimum(sizes, each).sum()) <= most for each in counts[1:])


def _evenly(rows: Sequence[Mapping[str, Any]], most: int) -> list[Mapping[str, Any]]:
    """At most so many, the middles of equal parts."""
    count = min(len(rows), most)
    return [rows[int((number + 0.5) * len(rows) / count)] for number in range(count)]


def _encoded(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).decode()
