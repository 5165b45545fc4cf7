"""Which slices make up which step: a closed form of (seed, step), so that a run may start at any step."""

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from medssl_monai.engines.slice_order import BLOCK, SliceOrder
from medssl_monai.errors import ConfigError
from medssl_monai.store.epochs import SampleKey


class StepBatchSampler(Sampler[list[SampleKey]]):
    """Endless batches of `SampleKey`, beginning at ``start_step``.

    A pass over the data is ``ceil(length / batch_size)`` steps. Keys carry the number of their pass, from which views
    are drawn. The numbers of workers and processes do not matter, and only the step needs to be saved.

    Args:
        length: number of slices.
        batch_size: slices a step.
        seed: order of the passes.
        shuffle: False keeps the data's own order in every pass.
        shuffle_window: slices that are mixed with one another, see `SliceOrder`; None mixes all.
        parts: shares of several stores, see `SliceOrder`; a pass is then shorter.
        start_step: the first step that iteration yields; a trainer sets it before it asks for an iterator.
        processes: how many share a batch; each gets a contiguous part of it.
        rank: which part, from 0.

    Raises:
        ConfigError: no slices, a batch size below one, or one that the processes cannot share evenly, or a window that
            holds less than a batch.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        start_step: int = 0,
        processes: int = 1,
        rank: int = 0,
        shuffle_window: int | None = None,
        parts: Sequence[tuple[int, float]] | None = None,
    ) -> None:
        if length < 1 or batch_size < 1:
            raise ConfigError(
                f"sampling needs at least one slice and a batch size of at least 1, found {length} slices and "
                f"batch_size={batch_size}; check the filters on the store and the batch size"
            )
        if batch_size % processes:
            raise ConfigError(f"batch_size {batch_size} cannot be shared by {processes} processes; make it a multiple")
        if shuffle_window is not None and shuffle_window < max(batch_size, 2 * BLOCK):
            raise ConfigError(
                f"shuffle_window {shuffle_window} must be at least {max(batch_size, 2 * BLOCK)}, a batch and "
                f"{2 * BLOCK} slices; give more, or null to mix all slices"
            )
        super().__init__()
        self.batch_size, self.start_step = batch_size, start_step
        self.order = SliceOrder(length, seed, shuffle, shuffle_window, parts=parts)
        self.length = self.order.length
        share = batch_size // processes
        self._part = slice(rank * share, (rank + 1) * share)

    @property
    def steps_per_pass(self) -> int:
        """Steps in which every slice is seen once (some twice, to fill the last batch)."""
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, batch = divmod(self.start_step, self.steps_per_pass)
        while True:
            for number in range(batch, self.steps_per_pass):
                # The last batch is filled from the beginning of the pass.
                positions = np.arange(self._part.start, self._part.stop) + number * self.batch_size
                slices = self.order.at(epoch, positions % self.length)
                yield [SampleKey(epoch, index) for index in slices.tolist()]
            epoch, batch = epoch + 1, 0
