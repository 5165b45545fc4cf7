"""Volumes in two files: a header of text (.mhd, .nhdr) names the file beside it that holds the voxels."""

from __future__ import annotations

import re
from pathlib import Path

HEADER_SUFFIXES = (".mhd", ".nhdr", ".mha", ".nrrd")
"""Formats that can name another file; the latter two seldom do."""

HEADER_BYTES = 1 << 20

_NAMES = {
    b"NRRD": re.compile(rb"^data ?file: *([^\r\n]*)", re.IGNORECASE | re.MULTILINE),
    b"": re.compile(rb"^ElementDataFile *= *([^\r\n]*)", re.MULTILINE),
}


def data_file(header: Path) -> Path | None:
    """The file that holds a header's voxels; None where they stand in the header's own file, or nowhere near.

    Raises:
        OSError: the header cannot be read.
    """
    with header.open("rb") as file:
        head = file.read(HEADER_BYTES)
    is_nrrd = head.startswith(b"NRRD")
    if is_nrrd:
        head = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
    match = _NAMES[b"NRRD" if is_nrrd else b""].search(head)
    name = match[1].decode("utf-8", "replace").strip() if match else ""
    if not name or (not is_nrrd and name.upper() == "LOCAL") or not lies_beside(name):
        return None
    data = header.parent / name
    return data if data.is_file() else None


def header_of(data: Path) -> Path | None:
    """The header that names this file, of those with the same name before the suffix (`ct.mhd` of `ct.raw`)."""
    stem = data.with_suffix("")
    stems = (stem.name, stem.with_suffix("").name)  # of `ct.raw` and of `ct.raw.gz`
    candidates = (data.parent / f"{name}{suffix}" for name in stems for suffix in HEADER_SUFFIXES[:2])
    try:
        return next((one for one in candidates if one.is_file() and data_file(one) == data), None)
    except OSError:
        return None


def lies_beside(name: str) -> bool:
    """Whether a header names one file in its own folder or below: no other is opened."""
    path = Path(name)
    return not (path.is_absolute() or ".." in path.parts or name.upper().startswith("LIST") or "%" in name)
