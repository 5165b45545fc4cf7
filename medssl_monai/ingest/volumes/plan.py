"""One volume file or picture as a series: its plan, named by its bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medssl_monai.ingest.dicom.admission import Rules
from medssl_monai.ingest.scan import Found
from medssl_monai.ingest.sources.paths import is_picture_file
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.ingest.volumes.pictures import PICTURE_MODALITY
from medssl_monai.store.pseudonyms import pseudonym, source_id
from medssl_monai.store.verdicts import Outcome, Reason, Verdict


@dataclass(frozen=True)
class VolumePlan:
    """A volume file or a picture as it will be written; the names are those of `DicomPlan`."""

    series_id: str
    patient: str
    source_id: str
    path: Path
    modality: str
    patient_known: bool
    assume_hu: bool
    instance_ids: tuple[str, ...]
    files: int = 1


def plan_volumes(
    found: Sequence[Found], key: bytes, rules: Rules, patients: NamedPatients
) -> tuple[list[VolumePlan], list[Verdict]]:
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
        named = patients.of(one.file.path)
        plans[series_id] = VolumePlan(
            series_id=series_id,
            # Nothing in such a file says whose it is: where its name does not either, it stands for the patient.
            patient=pseudonym(key, "patient", named or f"file {one.digest}"),
            patient_known=bool(named),
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
