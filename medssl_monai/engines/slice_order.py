"""The order in which a pass reads its slices: a permutation of their numbers, for any seed and pass."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Kind = Literal["table", "keyed"]

TABLE_LIMIT = 1 << 20
"""Slices up to which a pass is a table of torch's, as in SparK's sampler; larger ones take no memory."""

ROUNDS = 8
BLOCK = 32
"""Slices that follow one another in the store, which a shuffle window keeps together on the disk."""


def order_kind(length: int) -> Kind:
    """How the order of a new run with so many slices is made."""
    return "table" if length <= TABLE_LIMIT else "keyed"


def keyed_permutation(length: int, *key: int) -> Callable[[Numbers], Numbers]:
    """A permutation of ``range(length)`` that is computed where it is asked for, without a table.

    A Feistel network over the rectangle ``rows x columns``, the smallest near-square one that holds ``length``: in turn
    one coordinate is moved, modulo its side, by a hash of the other. Numbers beyond ``length`` go through the network
    again until they are below it (cycle walking; Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains).

    Args:
        length: how many numbers are permuted, at least 1.
        key: non-negative integers; each gives another permutation.

    Returns:
        A function of (N,) numbers, each below ``length``, which gives their images.

    Example:
        >>> sorted(keyed_permutation(5, 7)(np.arange(5)).tolist())
        [0, 1, 2, 3, 4]
    """
    rows = max(1, int(np.ceil(np.sqrt(length))))
    columns = -(-length // rows)
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)

    def once(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        row, column = numbers // np.uint64(columns), numbers % np.uint64(columns)
        for number in range(0, ROUNDS, 2):
            row = (row + _hashed(column, keys[number]) % np.uint64(rows)) % np.uint64(rows)
            column = (column + _hashed(row, keys[number + 1]) % np.uint64(columns)) % np.uint64(columns)
        return row * np.uint64(columns) + column

    def permuted(numbers: Numbers) -> Numbers:
        images = once(numbers.astype(np.uint64))
        while (outside := images >= length).any():
            images[outside] = once(images[outside])
        return images.astype(np.int64)

    return permuted


def _hashed(numbers: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014) of number plus key; products wrap around, as they should."""
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


class SliceOrder:
    """The slice at each position of a pass, as a function of (seed, pass, position).

    Args:
        length: number of slices.
        seed: of the run.
        shuffle: False keeps the store's order.
        window: slices that are mixed with one another; None mixes all. Blocks of `BLOCK` slices that follow one another
            are shuffled whole, and as many blocks as a window holds are mixed. A disk then reads blocks in order, and
            a batch has slices of up to ``window / BLOCK`` series.
        kind: "table" permutes by torch, as SparK's sampler does; "keyed" needs no memory. A window is always keyed.
        parts: number of slices and share of a pass, of each of several stores that follow one another (`pass_shares`).
            `length` becomes shorter, so that a pass shows a slice once at most. Slices of a store that has more than
            its share come in later passes.

    Attributes:
        length: positions of a pass.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool = True,
        window: int | None = None,
        kind: Kind | None = None,
        parts: Sequence[tuple[int, float]] | None = None,
    ) -> None:
        self.parts: list[tuple[int, int]] = []  # slices of each store, and how many a pass has of them
        if parts is not None:
            most = min(count / share for count, share in parts)
            self.parts = [(count, max(1, min(count, round(most * share)))) for count, share in parts]
            length = sum(in_pass for _, in_pass in self.parts)
        self.length, self.seed, self.shuffle, self.window = length, seed, shuffle, window
        self.kind: Kind = kind or order_kind(length)
        self._table: tuple[int, Numbers] | None = None

    def at(self, epoch: int, positions: Numbers) -> Numbers:
        """The slices at (N,) positions of pass `epoch`, each below `length`."""
        places = self._permuted(epoch, positions)
        return self._of_parts(epoch, places) if self.parts else places

    def _of_parts(self, epoch: int, places: Numbers) -> Numbers:
        """Each store's slices in an order of its own, of which a pass takes up where the last one stopped."""
        slices = np.empty_like(places)
        place = first = 0
        for number, (count, in_pass) in enumerate(self.parts):
            here = (places >= place) & (places < place + in_pass)
            own = (places[here] - place + epoch * in_pass) % count
            slices[here] = first + (keyed_permutation(count, self.seed, 0, 0, number)(own) if in_pass < count else own)
            place, first = place + in_pass, first + count
        return slices

    def _permuted(self, epoch: int, positions: Numbers) -> Numbers:
        if not self.shuffle:
            return positions
        if self.window is not None:
            return self._in_windows(epoch, positions, self.window)
        if self.kind == "keyed":
            return keyed_permutation(self.length, self.seed, epoch)(positions)
        if self._table is None or self._table[0] != epoch:
            self._table = epoch, permutation_table(self.length, self.seed, epoch)
        return self._table[1][positions]

    def _in_windows(self, epoch: int, positions: Numbers, window: int) -> Numbers:
        """Position -> another one in its window -> block and place in it -> slice. The last, short block stays last."""
        size = max(1, window // BLOCK) * BLOCK
        places = positions.copy()
        for number in np.unique(positions // size):
            inside = positions // size == number
            width = min(size, self.length - int(number) * size)
            mixed = keyed_permutation(width, self.seed, epoch, 1 + int(number))
            places[inside] = number * size + mixed(positions[inside] - number * size)
        blocks = self.length // BLOCK
        whole = places < blocks * BLOCK
        if blocks:
            moved = keyed_permutation(blocks, self.seed, epoch, 0)(places[whole] // BLOCK)
            places[whole] = moved * BLOCK + places[whole] % BLOCK
        return places


def permutation_table(length: int, seed: int, epoch: int) -> NDArray[Any]:
    """A permutation of ``range(length)`` by torch; its generator is seeded by ``seed + epoch``, as SparK's sampler."""
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch))
    table: NDArray[Any] = order.numpy()
    return table
