"""Samples that are addressed by epoch and index, so that each view is drawn once and can be drawn again."""

from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from medssl_monai.errors import ConfigError


class SampleKey(NamedTuple):
    """Which sample, in which epoch: what a view's randomness is drawn from."""

    epoch: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which a key does not need


class EpochDataset(Dataset[Any]):
    """A data set with samples that are addressed by a plain index, or by a `SampleKey`, which also names the epoch.

    Random views are drawn from (seed, epoch, index). Plain indices are counted: an index belongs to epoch 0 when it is
    asked for the first time, to epoch 1 the next time, and so on, each index by itself. Each pass of a plain
    ``DataLoader`` thus gives fresh views. They are the same for any number of workers, persistent or not, and for any
    order. A new data set begins at epoch 0 again, so that a run repeats. A `SampleKey` is not counted.

    Call `set_epoch` before each pass to decide yourself. That is needed

    - after a pass that was broken off, if the run must repeat exactly: workers had read ahead by an unknown number of
      samples;
    - when several processes share a pass (``DistributedSampler``): each of them counts for itself;
    - when a run is resumed in a later epoch.

    Args:
        length: number of samples.
    """

    def __init__(self, length: int) -> None:
        # How often each sample was asked for, then the epoch that was set, or -1. Workers hold copies of the data set,
        # persistent ones for all passes: only shared memory is seen by all of them.
        # It is made there, all zero: memory that is copied into it would be taken at once, 4 bytes a sample.
        shared = torch.UntypedStorage._new_shared(4 * (length + 1))  # type: ignore[no-untyped-call]
        self._asked = torch.tensor([], dtype=torch.int32).set_(shared)
        self._asked[-1] = -1

    def __len__(self) -> int:
        return len(self._asked) - 1

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._asked.share_memory_()  # type: ignore[no-untyped-call]  # a copy, or one from a file, has memory of its own

    def set_epoch(self, epoch: int | None) -> None:
        """Give every plain index this epoch from now on, in all workers; None counts on from where counting stopped.

        Raises:
            ConfigError: a negative epoch.
        """
        if epoch is not None and epoch < 0:
            raise ConfigError(f"epoch {epoch} must be at least 0; epochs are counted from 0")
        self._asked[-1] = -1 if epoch is None else epoch

    def sample_key(self, key: int | SampleKey) -> SampleKey:
        """Epoch, and index from 0, of a key; a plain index is counted.

        Raises:
            IndexError: there is no such sample.
        """
        index = int(key.index if isinstance(key, SampleKey) else key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index}: the data set has {len(self)} samples")
        index %= len(self)
        if isinstance(key, SampleKey):
            return SampleKey(int(key.epoch), index)
        epoch = int(self._asked[-1])
        if epoch < 0:
            epoch = int(self._asked[index])
            self._asked[index] += 1
        return SampleKey(epoch, index)
