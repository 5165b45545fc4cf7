"""Which slices make up which step: a closed form of (seed, step), so that a run may start at any step."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Sampler

from medssl_monai.errors import ConfigError
from medssl_monai.store.dataset import SampleKey


def filled_permutation(length: int, total: int, seed: int, epoch: int) -> Tensor:
    """A pass over the data: a permutation of ``range(length)``, filled from its own start to ``total`` entries.

    The generator is seeded with ``seed + epoch``, as in SparK's sampler, so that every pass has full batches.
    """
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch))
    return order.repeat(-(-total // length))[:total]


class StepBatchSampler(Sampler[list[SampleKey]]):
    """Endless batches of `SampleKey`, beginning at ``start_step``.

    A pass over the data is ``ceil(length / batch_size)`` steps. Keys carry the number of their pass, from which views
    are drawn. The numbers of workers and processes do not matter, and only the step needs to be saved.

    Args:
        length: number of slices.
        batch_size: slices a step.
        seed: order of the passes.
        shuffle: False keeps the data's own order in every pass.
        start_step: the first step that iteration yields; a trainer sets it before it asks for an iterator.
        processes: how many share a batch; each gets a contiguous part of it.
        rank: which part, from 0.

    Raises:
        ConfigError: no slices, a batch size below one, or one that the processes cannot share evenly.
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
    ) -> None:
        if length < 1 or batch_size < 1:
            raise ConfigError(
                f"sampling needs at least one slice and a batch size of at least 1, found {length} slices and "
                f"batch_size={batch_size}; check the filters on the store and the batch size"
            )
        if batch_size % processes:
            raise ConfigError(f"batch_size {batch_size} cannot be shared by {processes} processes; make it a multiple")
        super().__init__()
        self.length, self.batch_size, self.seed, self.shuffle = length, batch_size, seed, shuffle
        self.start_step = start_step
        share = batch_size // processes
        self._part = slice(rank * share, (rank + 1) * share)

    @property
    def steps_per_pass(self) -> int:
        """Steps in which every slice is seen once (some twice, to fill the last batch)."""
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, batch = divmod(self.start_step, self.steps_per_pass)
        while True:
            order = self._order(epoch)
            for first in range(batch * self.batch_size, len(order), self.batch_size):
                whole = order[first : first + self.batch_size]
                yield [SampleKey(epoch, index) for index in whole[self._part].tolist()]
            epoch, batch = epoch + 1, 0

    def _order(self, epoch: int) -> Tensor:
        # A tensor: a hundred million Python numbers would take 4 GB.
        total = self.steps_per_pass * self.batch_size
        if self.shuffle:
            return filled_permutation(self.length, total, self.seed, epoch)
        return torch.arange(total) % self.length
