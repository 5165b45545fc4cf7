"""The digest by which files are known to be the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medssl_monai.ingest.volumes.detached import HEADER_SUFFIXES, data_file

__all__ = ["file_digest"]


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; of a volume's header together with the file beside it that holds its voxels."""
    digest = _sha256(path)
    if path.name.lower().endswith(HEADER_SUFFIXES) and (data := data_file(path)) is not None:
        return hashlib.sha256(f"{digest} {_sha256(data)}".encode()).hexdigest()
    return digest


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
