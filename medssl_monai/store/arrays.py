"""The blosc2 arrays of a store: opened only where they are nothing but numbers.

A blosc2 frame can hold expressions and Python functions in its metalayers, which some versions of blosc2 execute when
it is opened or read. A store may come from anybody: what a frame holds is therefore read from its first bytes before
blosc2 is asked (C-Blosc2, README_CFRAME_FORMAT.rst).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.errors import StoreError

_MAGIC = b"\x9e\xa8b2frame\x00"
_HAS_VL_METALAYERS, _METALAYERS = 68, 87
_FALSE, _ARRAY_OF_3, _UINT16, _MAP16 = 0xC2, 0x93, 0xCD, 0xDE


def open_array(file: Path) -> Any:
    """A memory-mapped array (slices, H, W) of int16, read by one thread.

    Raises:
        StoreError: the file is damaged, or holds anything but such an array.
    """
    import blosc2

    if not _holds_numbers_alone(file):
        raise StoreError(f"{file}: is damaged, or holds more than an array of numbers; ingest its source again")
    try:
        # One thread: slices are single blocks, and threads of blosc2 would not survive a fork.
        array = blosc2.open(str(file), mode="r", mmap_mode="r", dparams=blosc2.DParams(nthreads=1))
    except (RuntimeError, ValueError) as error:
        raise StoreError(f"{file}: is damaged; ingest its source again") from error
    if not isinstance(array, blosc2.NDArray) or array.dtype != np.int16 or array.ndim != 3:
        raise StoreError(f"{file}: is no array of slices; ingest its source again")
    return array


def _holds_numbers_alone(file: Path) -> bool:
    """Whether a frame has the metalayer of arrays, `b2nd`, and no other."""
    with file.open("rb") as opened:
        head = opened.read(512)
    if not head.startswith(_MAGIC) or len(head) < _METALAYERS + 16 or head[_HAS_VL_METALAYERS] != _FALSE:
        return False
    first, second, _, third, count = struct.unpack_from(">BBHBH", head, _METALAYERS)
    name = head[_METALAYERS + 7 : _METALAYERS + 12]
    return (first, second, third, count, name) == (_ARRAY_OF_3, _UINT16, _MAP16, 1, b"\xa4b2nd")
