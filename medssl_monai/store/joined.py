"""Several stores as one: their slices, one store after another."""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from medssl_monai.errors import ConfigError, StoreError
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.records import SeriesNote
from medssl_monai.store.same_series import Content, series_contents
from medssl_monai.store.schema import Filters, conjunctions
from medssl_monai.store.selection import CODED, Selection
from medssl_monai.store.verdicts import Verdict

logger = logging.getLogger(__name__)


class JoinedStore(SliceStore):
    """Several stores, to train on all of them.

    A series that is in more than one store is taken from the first. A log line says how many there are. It is
    recognised by its pseudonym, or by the measures of its slices (`series_contents`), which also finds it in stores
    that were made with different keys. Of such stores, a warning says that a patient of both counts as two.

    Example:
        >>> store = JoinedStore([SliceStore("NORTH"), SliceStore("SOUTH")])  # doctest: +SKIP

    Args:
        stores: two or more.

    Raises:
        StoreError: one of them is given twice.
    """

    def __init__(self, stores: Sequence[SliceStore]) -> None:
        self.stores = list(stores)
        self._place = " + ".join(store.place for store in self.stores)
        prints = [store.fingerprint for store in self.stores]
        if len(set(prints)) < len(prints):
            raise StoreError(f"stores {self.place}: two of them have the same content; give each once")
        self.told: set[str] = set()
        self._left_out: list[list[str]] = []
        self._owner: dict[str, SliceStore] = {}
        known: set[Content] = set()
        for store in self.stores:
            contents = series_contents(store)
            names = [name for name in store.series_ids if name in self._owner or contents[name] in known]
            self._left_out.append(names)
            taken = set(store.series_ids).difference(names)
            self._owner.update(dict.fromkeys(taken, store))
            known.update(contents[name] for name in taken)
        keys = {str(store.description["key_check"]) for store in self.stores}
        self.description = {
            "series": len(self._owner),
            "slices": sum(self.counts()),
            "fingerprint": hashlib.sha256("\n".join(prints).encode()).hexdigest(),
            "key_check": keys.pop() if len(keys) == 1 else "",
        }
        self._tell()

    def _tell(self) -> None:
        for store, names in zip(self.stores, self._left_out, strict=True):
            if names:
                logger.warning(
                    "store %s: %d of its series, such as %s, are in an earlier one too, and are taken from there",
                    store.place,
                    len(names),
                    names[0],
                )
        if not self.description["key_check"]:
            logger.warning(
                "stores %s: were made with different keys, so a patient of two of them counts as two; ingest them with "
                "one key (`--key FILE`) to change that",
                self.place,
            )

    @property
    def place(self) -> str:
        """Their places."""
        return self._place

    def _filtered(self, filters: Filters | None) -> Iterator[tuple[SliceStore, Filters | None]]:
        """Each store, with filters that leave out the series of earlier ones too."""
        for store, names in zip(self.stores, self._left_out, strict=True):
            if names:
                others = ["series_id", "not in", names]
                yield store, [[*one, others] for one in conjunctions(filters or ())] or [[others]]
            else:
                yield store, filters

    def counts(self, filters: Filters | None = None) -> list[int]:
        """How many slices pass, of each store."""
        return [store.count(own) for store, own in self._filtered(filters)]

    def tables(self, filters: Filters | None, columns: Sequence[str]) -> Iterator[pa.Table]:
        """As `SliceStore.tables`, of one store after another."""
        return chain.from_iterable(store.tables(own, columns) for store, own in self._filtered(filters))

    def selection(self, filters: Filters | None = None) -> Selection:
        """As `SliceStore.selection`."""
        return JoinedSelection([store.selection(own) for store, own in self._filtered(filters)])

    def count(self, filters: Filters | None = None) -> int:
        """How many slices pass."""
        return sum(self.counts(filters))

    @cached_property
    def index(self) -> pa.Table:
        """All rows."""
        return pa.concat_tables([store.select_table(own) for store, own in self._filtered(None)])

    @cached_property
    def series_ids(self) -> list[str]:
        """All series, sorted."""
        return sorted(self._owner)

    @property
    def verdicts(self) -> list[Verdict]:
        """What became of every file that was met."""
        return [verdict for store in self.stores for verdict in store.verdicts]

    def read(self, series_id: str, slice: int) -> NDArray[np.int16]:
        """As `SliceStore.read`."""
        return self._of(series_id).read(series_id, slice)

    def read_series(self, series_id: str) -> NDArray[np.int16]:
        """As `SliceStore.read_series`."""
        return self._of(series_id).read_series(series_id)

    def note(self, series_id: str) -> SeriesNote:
        """As `SliceStore.note`."""
        return self._of(series_id).note(series_id)

    def each_series(self) -> Iterator[list[dict[str, Any]]]:
        """As `SliceStore.each_series`."""
        for store in self.stores:
            for rows in store.each_series():
                if self._of(rows[0]["series_id"]) is store:
                    yield rows

    def _of(self, series_id: str) -> SliceStore:
        if series_id not in self._owner:
            raise StoreError(f"stores {self.place}: none has a series {series_id!r}; `series_ids` lists what they have")
        return self._owner[series_id]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class JoinedSelection(Selection):
    """Selections of several stores, one after another.

    Args:
        parts: each store's.
    """

    def __init__(self, parts: Sequence[Selection]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts]).tolist()
        self.names = {}
        self._codes: dict[str, list[NDArray[np.int32]]] = {}  # of each part's texts among all
        for name in CODED:
            numbers: dict[bytes, int] = {}
            self._codes[name] = [
                np.asarray(
                    [*(numbers.setdefault(text, len(numbers)) for text in part.names[name].tolist()), -1], np.int32
                )
                for part in self.parts
            ]
            self.names[name] = np.asarray(list(numbers)) if numbers else np.empty(0, "S1")

    @property
    def rows(self) -> NDArray[Any]:  # type: ignore[override]  # joined for who looks at all
        """(N,) of `ROW`."""
        pieces = []
        for number, part in enumerate(self.parts):
            piece = np.array(part.rows)
            for name in CODED:
                piece[name] = self._codes[name][number][piece[name]]  # -1, no text, is the last
            pieces.append(piece)
        return np.concatenate(pieces)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def row(self, index: int) -> dict[str, Any]:
        """A slice's columns by name; None where the index has null."""
        part = bisect_right(self._ends, index)
        return self.parts[part].row(index - (self._ends[part - 1] if part else 0))

    def __reduce__(self) -> tuple[Any, ...]:
        return JoinedSelection, (self.parts,)


def pass_shares(
    store: SliceStore,
    shares: Sequence[float] | None,
    filters: Filters | None = None,
    kept: NDArray[np.integer[Any]] | None = None,
) -> list[tuple[int, float]] | None:
    """Slices of each store in a data set, and its share of a pass: what `StepLoader` takes; None for no shares.

    Args:
        store: a `JoinedStore`.
        shares: of a pass, for each of its stores, above 0; they are divided by their sum.
        filters: as of `SliceDataset`.
        kept: as of `SliceDataset`.

    Raises:
        ConfigError: `shares` are not one number above 0 for each store, or a store has no slice that passes.
    """
    if shares is None:
        return None
    stores = store.stores if isinstance(store, JoinedStore) else [store]
    if len(shares) != len(stores) or not all(isinstance(share, (int, float)) and share > 0 for share in shares):
        raise ConfigError(
            f"store_shares: needs a number above 0 for each of the {len(stores)} stores in dataset_dir, found "
            f"{list(shares)}; give for instance {[1] * len(stores)}"
        )
    counts = store.counts(filters) if isinstance(store, JoinedStore) else [store.count(filters)]
    if kept is not None:
        counts = np.diff(np.searchsorted(kept, np.cumsum([0, *counts]))).tolist()
    for one, count in zip(stores, counts, strict=True):
        if not count:
            raise ConfigError(f"store_shares: no slice of store {one.place} passes the filters; leave this store out")
    return [(int(count), float(share) / sum(shares)) for count, share in zip(counts, shares, strict=True)]
