"""Finds files, looks at each once, and plans the series among them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.ingest.dicom.admission import Rules, refusal
from medssl_monai.ingest.dicom.header import HEAD_BYTES, read_frames, sniff_dicom
from medssl_monai.ingest.dicom.instance import Instance
from medssl_monai.ingest.sources.paths import (
    PICTURE_SUFFIXES,
    VOLUME_SUFFIXES,
    PathList,
    SourceFile,
    is_picture_file,
    is_volume_file,
)
from medssl_monai.ingest.volumes.detached import header_of
from medssl_monai.ingest.volumes.digest import file_digest
from medssl_monai.store.verdicts import Reason, RejectedError

PICTURE_AS_CT = (
    "is a picture, whose grey values are not Hounsfield units; pre-train on pictures with `--config pictures`, and "
    "ingest them without `--modality CT`"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What one file is: images of DICOM, each with why it is not taken; a volume file or picture; or neither.

    Attributes:
        digest: of a volume file or picture; any word for the data of a volume.
        data_of: the header that names this file for its data.
        refused: why the file as a whole is not taken.
    """

    file: SourceFile
    instances: tuple[tuple[Instance, tuple[Reason, str] | None], ...] = ()
    digest: str = ""
    data_of: Path | None = None
    refused: tuple[Reason, str] | None = None


def find_files(sources: Iterable[Path], store: Path | None = None) -> PathList:
    """All files, sorted by path, each once however many links lead to it; not those of the store itself.

    A folder that may not be read stands for what is in it, so that it gets a verdict.
    """
    own = str(store.resolve()) if store is not None else None
    return PathList(
        path for source in sources for path in (_walk(str(source), own) if source.is_dir() else [str(source)])
    )


def look_at(file: SourceFile, rules: Rules) -> Found:
    """Says what a file is; never raises for what is in it."""
    try:
        if is_volume_file(file.path):
            return Found(file, digest=file_digest(file.content))
        if is_picture_file(file.path):
            if rules.modality == "CT":
                return Found(file, refused=(Reason.NOT_HOUNSFIELD, PICTURE_AS_CT))
            return Found(file, digest=file_digest(file.content))
        with file.content.open("rb", buffering=0) as opened:
            head = opened.read(HEAD_BYTES)
        if not sniff_dicom(head):
            if (header := header_of(file.content)) is not None:
                return Found(file, digest="data", data_of=header)
            known = ", ".join((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES))
            what = "is empty" if not head else f"is neither DICOM nor a volume file or picture ({known})"
            return Found(file, refused=(Reason.NOT_AN_IMAGE_FILE, what))
        frames = read_frames(file.path, file.content, head)
    except RejectedError as rejection:
        if (header := header_of(file.content)) is not None:  # voxels that start as DICOM does
            return Found(file, digest="data", data_of=header)
        return Found(file, refused=(rejection.reason, rejection.detail))
    except OSError as error:
        remedy = "; correct its permissions" if isinstance(error, PermissionError) else ""
        what = f"is a file or folder that cannot be opened ({type(error).__name__}){remedy}"
        return Found(file, refused=(Reason.UNREADABLE, what))
    return Found(file, tuple((frame, refusal(frame, rules)) for frame in frames))


def _walk(folder: str, own: str | None) -> Iterable[str]:
    """Files below a folder, and folders that cannot be read; links are followed, loops are not."""
    seen = set()
    unreadable: list[str] = []
    for root, folders, names in os.walk(
        folder, onerror=lambda error: unreadable.append(error.filename), followlinks=True
    ):
        real = os.path.realpath(root)
        if real in seen or real == own:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (str(path) for path in (Path(root) / name for name in sorted(names)) if _may_be_file(path))
    yield from unreadable


def _may_be_file(path: Path) -> bool:
    """Whether it is a file, or may not be asked for what it is: then opening it tells what is wrong."""
    try:
        return path.is_file()
    except OSError:
        return True
