"""The blosc2 arrays of a store: opened only where they are nothing but numbers.

A blosc2 frame can hold expressions and Python functions in its metalayers, which some versions of blosc2 execute when
it is opened or read. A store may come from anybody: what a frame holds is therefore read from its first bytes before
blosc2 is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medssl_monai.errors import StoreError
from medssl_monai.store.frames import HEAD_BYTES, holds_numbers_alone


class SliceArray(Protocol):
    """A series: slices, H, W; int16 HU."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Slices, H, W."""

    def read(self, slice: int) -> NDArray[np.int16]:
        """One slice, (H, W).

        Raises:
            RuntimeError: it is damaged.
        """

    def read_all(self) -> NDArray[np.int16]:
        """All slices.

        Raises:
            RuntimeError: one is damaged.
        """


class FileArray:
    """A memory-mapped array, read by one thread.

    Raises:
        StoreError: the file is damaged, or holds anything but an array of slices.
    """

    def __init__(self, file: Path) -> None:
        import blosc2

        with file.open("rb") as opened:
            head = opened.read(HEAD_BYTES)
        if not holds_numbers_alone(head):
            raise StoreError(f"{file}: is damaged, or holds more than an array of numbers; ingest its source again")
        try:
            # One thread: slices are single blocks, and threads of blosc2 would not survive a fork.
            array = blosc2.open(str(file), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
        except (RuntimeError, ValueError) as error:
            raise StoreError(f"{file}: is damaged; ingest its source again") from error
        if not isinstance(array, blosc2.NDArray) or array.dtype != np.int16 or array.ndim != 3:
            raise StoreError(f"{file}: is no array of slices; ingest its source again")
        self._array: Any = array
        self.shape: tuple[int, ...] = array.shape

    def read(self, slice: int) -> NDArray[np.int16]:
        """One slice."""
        pixels = np.empty(self.shape[1:], np.int16)
        self._array.schunk.decompress_chunk(slice, dst=pixels)  # a block is a slice
        return pixels

    def read_all(self) -> NDArray[np.int16]:
        """All slices."""
        volume: NDArray[np.int16] = self._array[:]
        return volume
