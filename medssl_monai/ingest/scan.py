"""Finds files, looks at each once, and plans the series among them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.ingest.admission import Rules, refusal
from medssl_monai.ingest.archives import SourceFile
from medssl_monai.ingest.dicom import HEAD_BYTES, Instance, read_frames, sniff_dicom
from medssl_monai.ingest.digests import file_digest
from medssl_monai.ingest.grouping import common_folder, plan_series, series_uid
from medssl_monai.ingest.nifti import VOLUME_SUFFIXES, is_volume_file
from medssl_monai.ingest.pictures import PICTURE_MODALITY, PICTURE_SUFFIXES, is_picture_file
from medssl_monai.ingest.processing import Plan, VolumePlan
from medssl_monai.ingest.pseudonyms import pseudonym, source_id
from medssl_monai.ingest.verdicts import Outcome, Reason, RejectedError, Verdict

__all__ = ["Found", "Sharing", "find_files", "look_at", "plan_all", "volume_series_id"]


SHARED_FIELDS = (
    *("series_uid", "sop_class", "frame_of_reference", "patient_id", "modality", "shape", "photometric", "image_type"),
    *("orientation", "spacing_mm", "rescale_type", "body_part", "kernel", "window", "stack"),
)
"""Of an image, those that most images of a series have in common."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one file is: images of DICOM, each with why it is not taken; a volume file or picture; or neither.

    Attributes:
        digest: of a volume file or picture.
        refused: why the file as a whole is not taken.
    """

    file: SourceFile
    instances: tuple[tuple[Instance, tuple[Reason, str] | None], ...] = ()
    digest: str = ""
    refused: tuple[Reason, str] | None = None


def find_files(sources: Iterable[Path], store: Path | None = None) -> list[Path]:
    """All files, sorted by path, each once however many links lead to it; not those of the store itself."""
    found: dict[str, Path] = {}
    own = store.resolve() if store is not None else None
    for source in sources:
        for path in _walk(source, own) if source.is_dir() else [source]:
            found.setdefault(os.path.realpath(path), path)
    return [found[path] for path in sorted(found)]


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
            known = ", ".join((*VOLUME_SUFFIXES, *PICTURE_SUFFIXES))
            what = "is empty" if not head else f"is neither DICOM nor a volume file or picture ({known})"
            return Found(file, refused=(Reason.NOT_AN_IMAGE_FILE, what))
        frames = read_frames(file.path, file.content, head)
    except RejectedError as rejection:
        return Found(file, refused=(rejection.reason, rejection.detail))
    except OSError as error:
        return Found(file, refused=(Reason.UNREADABLE, f"cannot be opened ({type(error).__name__})"))
    return Found(file, tuple((frame, refusal(frame, rules)) for frame in frames))


class Sharing:
    """Lets what was found in other processes hold equal values once, and the paths of this process.

    All headers of a run are kept until its series are known, so that their size decides how much memory it takes.

    Args:
        files: what was looked at, in the order in which `__call__` gets the results.
    """

    def __init__(self, files: Iterable[SourceFile]) -> None:
        self._files = iter(files)
        self._values: dict[object, object] = {}

    def __call__(self, found: Found) -> Found:
        """The same, with shared values."""
        file = next(self._files)
        object.__setattr__(found, "file", file)
        for instance, _ in found.instances:
            for name in SHARED_FIELDS:
                object.__setattr__(instance, name, self._once(getattr(instance, name)))
            object.__setattr__(instance, "path", file.path)
            object.__setattr__(instance, "content", file.content)
            object.__setattr__(instance, "discriminators", tuple(map(self._once, instance.discriminators)))
        return found

    def _once(self, value: object) -> object:
        return self._values.setdefault(value, value)


def plan_all(found: Sequence[Found], key: bytes, rules: Rules) -> tuple[list[Plan], list[Verdict]]:
    """The series to be stored, and a verdict for every file that is in none of them."""
    verdicts = [
        Verdict(Outcome.REJECTED, "file", source_id(key, one.file.path), reason=one.refused[0], detail=one.refused[1])
        for one in found
        if one.refused is not None
    ]
    taken = [instance for one in found for instance, refused in one.instances if refused is None]
    verdicts += _refused_series(found, {instance.path for instance in taken}, key)
    dicom_plans, ambiguous = plan_series(taken, key)
    volume_plans, copies = _plan_volumes([one for one in found if one.digest], key, rules)
    return [*dicom_plans, *volume_plans], [*verdicts, *ambiguous, *copies]


def volume_series_id(key: bytes, digest: str) -> str:
    """The series id of a volume file: of its bytes, so that a moved or renamed file stays the same series."""
    return pseudonym(key, "series", f"file {digest}")


def _walk(folder: Path, own: Path | None) -> Iterable[Path]:
    """Files below a folder; links are followed, loops are not."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = Path(root).resolve()
        if real in seen or real == own:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (path for path in (Path(root) / name for name in sorted(names)) if path.is_file())


def _refused_series(found: Sequence[Found], counted: set[Path], key: bytes) -> list[Verdict]:
    """One verdict for all images of a series that were refused for the same reason.

    Args:
        found: everything.
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


def _plan_volumes(found: Sequence[Found], key: bytes, rules: Rules) -> tuple[list[VolumePlan], list[Verdict]]:
    """One series for each distinct volume file or picture; further files with the same bytes are copies."""
    plans: dict[str, VolumePlan] = {}
    copies = []
    for one in found:
        source, series_id = source_id(key, one.file.path), volume_series_id(key, one.digest)
        if series_id in plans:
            detail = "has the same bytes as another file of this run"
            copies.append(Verdict(Outcome.REJECTED, "file", source, reason=Reason.DUPLICATE, detail=detail))
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
        )
    return list(plans.values()), copies
