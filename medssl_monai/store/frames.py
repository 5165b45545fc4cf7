"""The frame of a blosc2 array, read from its bytes (C-Blosc2, README_CFRAME_FORMAT.rst).

A frame is a header, the compressed chunks, a chunk that holds their offsets, and a trailer. In a store's arrays, a
chunk is a slice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD_BYTES = 512
"""As much of a file's start as the functions here need: the header of a store's arrays has 184 bytes."""

_MAGIC = b"\x9e\xa8b2frame\x00"
_HEADER_BYTES, _FRAME_BYTES, _RAW_BYTES, _COMPRESSED_BYTES, _CHUNK_BYTES = 11, 16, 30, 39, 58
_HAS_VL_METALAYERS, _METALAYERS = 68, 87
_FALSE, _ARRAY_OF_3, _UINT16, _MAP16, _INT32, _BIN32 = 0xC2, 0x93, 0xCD, 0xDE, 0xD2, 0xC6
_CHUNK_HEADER = 32
_ZEROS = 1 << 56
"""Of an offset that stands for a whole chunk of zeros; such an offset is negative."""


@dataclass(frozen=True)
class Frame:
    """What a header says.

    Args:
        shape: slices, H, W.
        header_bytes: where the chunks begin.
        offsets_at: where the chunk with their offsets begins.
        frame_bytes: length of the whole.
    """

    shape: tuple[int, int, int]
    header_bytes: int
    offsets_at: int
    frame_bytes: int

    @property
    def slice_bytes(self) -> int:
        """Of an uncompressed slice."""
        return 2 * self.shape[1] * self.shape[2]


def holds_numbers_alone(head: bytes) -> bool:
    """Whether a frame has the metalayer of arrays, `b2nd`, and no other.

    Others can hold expressions and Python functions, which some versions of blosc2 execute.

    Args:
        head: the first `HEAD_BYTES` of the file.
    """
    if not head.startswith(_MAGIC) or len(head) < _METALAYERS + 16 or head[_HAS_VL_METALAYERS] != _FALSE:
        return False
    first, second, _, third, count = struct.unpack_from(">BBHBH", head, _METALAYERS)
    name = head[_METALAYERS + 7 : _METALAYERS + 12]
    return (first, second, third, count, name) == (_ARRAY_OF_3, _UINT16, _MAP16, 1, b"\xa4b2nd")


def read_frame(head: bytes) -> Frame:
    """The header of an array of slices.

    Args:
        head: the first `HEAD_BYTES` of the file.

    Raises:
        ValueError: it is no frame of an array of int16 of three dimensions with a slice in each chunk.
    """
    import msgpack

    if not holds_numbers_alone(head):
        raise ValueError("no frame, or more than an array of numbers")
    try:
        header_bytes = _number(head, ">i", _HEADER_BYTES)
        frame_bytes = _number(head, ">q", _FRAME_BYTES)
        compressed = _number(head, ">q", _COMPRESSED_BYTES)
        marker, place = struct.unpack_from(">Bi", head, _METALAYERS + 12)
        kind, length = struct.unpack_from(">Bi", head, place)
        described = msgpack.unpackb(head[place + 5 : place + 5 + length])
        _, _, shape, chunk, _, _, dtype = described
        slices, height, width = map(int, shape)
    except (struct.error, ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError("a header that cannot be read") from error
    frame = Frame((slices, height, width), header_bytes, header_bytes + compressed, frame_bytes)
    raw, chunk_bytes = _number(head, ">q", _RAW_BYTES), _number(head, ">i", _CHUNK_BYTES)
    fits = (
        (marker, kind) == (_INT32, _BIN32)
        and dtype in {"<i2", "=i2", "|i2"}
        and list(chunk) == [1, height, width]
        and min(frame.shape) > 0
        and chunk_bytes == frame.slice_bytes
        and raw == slices * chunk_bytes
        and 0 < header_bytes <= frame.offsets_at < frame_bytes
    )
    if not fits:
        raise ValueError("no array of slices")
    return frame


def read_places(frame: Frame, end: bytes) -> NDArray[np.int64]:
    """Where each slice is in the file: (slices, 2), begin and end; both are 0 of a slice of zeros alone.

    Args:
        frame: the header.
        end: the file from `offsets_at` on.

    Raises:
        ValueError: they do not fit the frame.
    """
    length = 8 * frame.shape[0]
    if _sizes(end)[0] != length:
        raise ValueError("offsets that do not fit")
    offsets = np.empty(frame.shape[0], np.int64)
    unpack(end, offsets)
    special = offsets < 0
    if np.any(offsets[special] & _ZEROS == 0):
        raise ValueError("a slice that was never written")
    begins = np.unique(offsets[~special])
    ends = np.append(begins[1:], frame.offsets_at - frame.header_bytes)
    if np.any(ends <= begins):
        raise ValueError("offsets beyond the frame")
    places = np.zeros((frame.shape[0], 2), np.int64)
    places[~special, 0] = offsets[~special] + frame.header_bytes
    places[~special, 1] = ends[np.searchsorted(begins, offsets[~special])] + frame.header_bytes
    return places


def unpack(chunk: bytes, out: NDArray[Any]) -> None:
    """Decompresses a chunk into an array that it must fill.

    Raises:
        ValueError: it does not, or is damaged.
    """
    import blosc2

    size, compressed = _sizes(chunk)
    if size != out.nbytes or not _CHUNK_HEADER <= compressed <= len(chunk):
        raise ValueError("a chunk of another size")
    try:
        blosc2.decompress2(chunk[:compressed], dst=out, nthreads=1)
    except (RuntimeError, ValueError) as error:
        raise ValueError("a damaged chunk") from error


def _sizes(chunk: bytes) -> tuple[int, int]:
    """Bytes of a chunk, raw and compressed."""
    if len(chunk) < _CHUNK_HEADER:
        raise ValueError("a chunk that is cut off")
    raw, _, compressed = struct.unpack_from("<iii", chunk, 4)
    return raw, compressed


def _number(head: bytes, kind: str, place: int) -> int:
    return int(struct.unpack_from(kind, head, place)[0])
