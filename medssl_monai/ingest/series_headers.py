"""What was found of each series, held until all files were looked at, since any of them may belong to any series.

They are packed, and kept beside the list of files (see `disk_table`): the headers of a series are so much alike that
some 60 bytes a file are left of 2,700. They hold identifiers of patients, and nothing of them outlives the process.
"""

from __future__ import annotations

import pickle
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from medssl_monai.ingest.dicom.plan import series_uid
from medssl_monai.ingest.scan import Found
from medssl_monai.ingest.sources.paths import DiskTable

PACKED_AT_ONCE = 256
"""Files of one series: more do not compress better."""

MOST_UNPACKED = 1024
"""Files of all series; beyond that, the series that was met least recently is packed."""


def _blocks() -> DiskTable:
    return DiskTable("(series TEXT, number INTEGER, block BLOB, PRIMARY KEY (series, number))")


@dataclass
class SeriesHeaders:
    """Headers of images, by series."""

    _packed: DiskTable = field(default_factory=_blocks)
    _unpacked: dict[str, list[Found]] = field(default_factory=dict)
    _files: Counter[str] = field(default_factory=Counter)
    _need_decoder: set[str] = field(default_factory=set)
    _waiting: int = 0

    def add(self, found: Found) -> None:
        """Takes what was found of one file with images."""
        uid = series_uid(found.instances[0][0])
        group = self._unpacked.pop(uid, [])
        group.append(found)
        self._unpacked[uid] = group  # what was met last stands last
        self._files[uid] += 1
        self._waiting += 1
        if any(instance.compressed for instance, refused in found.instances if refused is None):
            self._need_decoder.add(uid)
        if len(self._unpacked[uid]) >= PACKED_AT_ONCE:
            self._pack(uid)
        elif self._waiting > MOST_UNPACKED:
            self._pack(next(iter(self._unpacked)))

    @property
    def uids(self) -> list[str]:
        """Of the series that were not given yet, see `series_uid`."""
        return list(self._files)

    def count(self, need_decoder: bool | None = None) -> int:
        """How many series there are; of those that need a decoder in C for their pixels, or that need none."""
        return len(self._names(need_decoder))

    def take(self, need_decoder: bool | None = None) -> Iterator[list[Found]]:
        """All that was found of each series, those with most files first; what was given is forgotten."""
        for uid in sorted(self._names(need_decoder), key=lambda uid: (-self._files[uid], uid)):
            blocks = self._packed.select("SELECT block FROM kept WHERE series = ? ORDER BY number", uid)
            group = [one for (block,) in blocks for one in pickle.loads(zlib.decompress(block))]
            yield group + self._unpacked.pop(uid, [])
            del self._files[uid]

    def _names(self, need_decoder: bool | None) -> list[str]:
        return [uid for uid in self._files if need_decoder in (None, uid in self._need_decoder)]

    def _pack(self, uid: str) -> None:
        group = self._unpacked.pop(uid)
        self._waiting -= len(group)
        block = zlib.compress(pickle.dumps(group, pickle.HIGHEST_PROTOCOL), 1)
        self._packed.add([(uid, self._files[uid], block)])
