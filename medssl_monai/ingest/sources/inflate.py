"""Compressed data, unpacked within limits, and checked to the end against its checksums.

A few megabytes can unpack to as many gigabytes. And data that are read only as far as they are wanted end before the
checksum that says whether they are whole (RFC 1952 2.3.1).
"""

from __future__ import annotations

import bz2
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from medssl_monai.store.verdicts import Reason, RejectedError

RATIO = 200.0
"""Unpacked bytes for each packed one, at most: CT compresses to a third at best, a bomb has 1,000 and more."""

RATIO_FROM_BYTES = 256 * 2**20
"""Below this, any ratio is taken."""

BLOCK_BYTES = 1 << 20

GZIP_MAGIC = b"\x1f\x8b"


def check_size(unpacked: int, packed: int) -> None:
    """Refuses what unpacks to too much.

    Raises:
        RejectedError: it does.
    """
    if unpacked > max(RATIO * packed, RATIO_FROM_BYTES):
        raise RejectedError(
            Reason.UNREADABLE, f"unpacks to more than {RATIO:g} times its size, as bombs do; unpack it by hand"
        )


def inflate(body: bytes, wanted: int, encoding: str = "gzip") -> bytes:
    """The first bytes of compressed data, all of which are unpacked and checked.

    Args:
        body: gzip, zlib or bzip2 data, of one member or several.
        wanted: how many bytes are kept.
        encoding: "gzip" (zlib too), "deflate" (without a header) or "bzip2".

    Raises:
        RejectedError: it is damaged, ends before its checksum, or unpacks to too much.
    """
    check_size(wanted, len(body))
    kept = bytearray()
    unpacked = 0
    for block in _blocks(body, encoding):
        unpacked += len(block)
        check_size(unpacked, len(body))
        if len(kept) < wanted:
            kept += block[: wanted - len(kept)]
    return bytes(kept)


def inflate_file(path: Path, wanted: int) -> bytes:
    """As `inflate`, of a gzip file."""
    return inflate(path.read_bytes(), wanted)


def _blocks(body: bytes, encoding: str) -> Iterator[bytes]:
    rest = body
    while rest:
        unpacker: Any = _unpacker(encoding)
        try:
            yield from _of_one_member(unpacker, rest)
        except (zlib.error, OSError) as error:
            raise _damaged("its compressed data are damaged, or fail their checksum") from error
        if not unpacker.eof:
            raise _damaged("its compressed data end too early")
        rest = unpacker.unused_data
        if not rest.startswith(b"BZh" if encoding == "bzip2" else GZIP_MAGIC):
            return  # padding, as some writers leave


def _of_one_member(unpacker: Any, body: bytes) -> Iterable[bytes]:
    block = unpacker.decompress(body, BLOCK_BYTES)
    while True:
        yield block
        if unpacker.eof:
            return
        left = getattr(unpacker, "unconsumed_tail", b"")
        block = unpacker.decompress(left, BLOCK_BYTES)
        if not block and not unpacker.eof:
            return


def _unpacker(encoding: str) -> Any:
    if encoding == "bzip2":
        return bz2.BZ2Decompressor()
    return zlib.decompressobj(-zlib.MAX_WBITS if encoding == "deflate" else 32 + zlib.MAX_WBITS)


def _damaged(what: str) -> RejectedError:
    return RejectedError(Reason.UNREADABLE, f"{what}: truncated or damaged")
