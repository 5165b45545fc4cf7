"""Finds files, looks at each once, and plans the series among them."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.ingest.dicom.admission import Rules, refusal
from medssl_monai.ingest.dicom.instance import HEAD_BYTES, Instance, read_frames, sniff_dicom
from medssl_monai.ingest.dicom.stacks import DicomPlan, common_folder, plan_series, series_uid
from medssl_monai.ingest.sources.paths import PathList, SourceFile
from medssl_monai.ingest.volumes.detached import header_of
from medssl_monai.ingest.volumes.digest import file_digest
from medssl_monai.ingest.volumes.pictures import PICTURE_MODALITY, PICTURE_SUFFIXES, is_picture_file
from medssl_monai.ingest.volumes.read import VOLUME_SUFFIXES, is_volume_file
from medssl_monai.ingest.write_series import VolumePlan
from medssl_monai.store.pseudonyms import pseudonym, source_id
from medssl_monai.store.verdicts import Outcome, Reason, RejectedError, Verdict

__all__ = ["Found", "find_files", "look_at", "plan_images", "plan_volumes", "volume_series_id"]


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
                what = "is a picture, whose grey values are not Hounsfield units; ingest it without `modality` CT"
                return Found(file, refused=(Reason.NOT_HOUNSFIELD, what))
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


def plan_images(found: Sequence[Found], key: bytes) -> tuple[list[DicomPlan], list[Verdict]]:
    """The series to be stored among all files of one SeriesInstanceUID, and verdicts on what is in none of them."""
    taken = [instance for one in found for instance, refused in one.instances if refused is None]
    verdicts = _refused_series(found, {instance.path for instance in taken}, key)
    plans, ambiguous = plan_series(taken, key)
    return plans, [*verdicts, *ambiguous]


def plan_volumes(found: Sequence[Found], key: bytes, rules: Rules) -> tuple[list[VolumePlan], list[Verdict]]:
    """One series for each distinct volume file or picture; further files with the same bytes are copies.

    Files that hold the data of another one's header are counted with it.
    """
    plans: dict[str, VolumePlan] = {}
    copies = []
    data = Counter(str(one.data_of.resolve()) for one in found if one.data_of is not None)
    for one in found:
        if one.data_of is not None:
            continue
        source, series_id = source_id(key, one.file.path), volume_series_id(key, one.digest)
        files = 1 + (data.pop(str(one.file.content.resolve()), 0) if data else 0)
        if series_id in plans:
            detail = "has the same bytes as another file of this run"
            copies.append(
                Verdict(Outcome.REJECTED, "file", source, files=files, reason=Reason.DUPLICATE, detail=detail)
            )
            continue
        plans[series_id] = VolumePlan(
            series_id=series_id,
            # Nothing in a volume file says whose it is: the file stands for the patient.
            patient=pseudonym(key, "patient", f"file {one.digest}"),
            source_id=source,
            path=one.file.content,
            modality=rules.modality or (PICTURE_MODALITY if is_picture_file(one.file.content) else "CT"),
            assume_hu=rules.assume_hu,
            instance_ids=(pseudonym(key, "instance", one.digest),),
            files=files,
        )
    detail = "holds the data of a volume whose header is not among the files; name the header, or the folder of both"
    alone = [
        Verdict(Outcome.REJECTED, "file", source_id(key, one.file.path), reason=Reason.NOT_AN_IMAGE_FILE, detail=detail)
        for one in found
        if one.data_of is not None and str(one.data_of.resolve()) in data
    ]
    return list(plans.values()), [*copies, *alone]


def volume_series_id(key: bytes, digest: str) -> str:
    """The series id of a volume file: of its bytes, so that a moved or renamed file stays the same series."""
    return pseudonym(key, "series", f"file {digest}")


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


def _refused_series(found: Sequence[Found], counted: set[Path], key: bytes) -> list[Verdict]:
    """One verdict for all images of a series that were refused for the same reason.

    Args:
        found: all files of it.
        counted: files that other verdicts account for, because some of their frames were taken.
        key: of the pseudonyms.
    """
    groups: dict[tuple[str, Reason, str], list[Instance]] = defaultdict(list)
    for one in found:
        for instance, refused in one.instances:
            if refused is not None:
                groups[(series_uid(instance), *refused)].append(instance)
    verdicts = []
    for (uid, reason, detail), members in groups.items():
        files = {member.path for member in members} - counted
        counted = counted | files
        verdicts.append(
            Verdict(
                Outcome.REJECTED,
                "series",
                source_id(key, common_folder(member.path for member in members)),
                pseudonym(key, "series", uid),
                files=len(files),
                modality=members[0].modality,
                reason=reason,
                detail=detail,
            )
        )
    return verdicts
