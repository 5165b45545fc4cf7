"""The digest by which files are known to be the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from medssl_monai.atomic import file_sha256
from medssl_monai.ingest.volumes.detached import HEADER_SUFFIXES, data_file


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; of a volume's header together with the file beside it that holds its voxels."""
    digest = file_sha256(path)
    if path.name.lower().endswith(HEADER_SUFFIXES) and (data := data_file(path)) is not None:
        return hashlib.sha256(f"{digest} {file_sha256(data)}".encode()).hexdigest()
    return digest
