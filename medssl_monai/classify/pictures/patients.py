"""Patients of pictures, from a table beside them or from the pictures themselves."""

from dataclasses import replace
from pathlib import Path

from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.leaks import picture_sets
from medssl_monai.errors import LabelError
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.labels.audit import compare


def with_patients(data: ImageData, table: str | Path) -> ImageData:
    """The same pictures with the patients that a CSV table names; the names are replaced by numbers.

    Args:
        data: pictures in files.
        table: of `NamedPatients`.

    Raises:
        InputError: the table cannot be read, or lacks a column.
        LabelError: it names no picture. Pictures that it does not name have no patient, which a statement counts.
    """
    assert isinstance(data.images, ImageFiles)
    named = NamedPatients(table=table)
    patients = [named.of(path) for path in data.images.paths]
    if not any(patients):
        raise LabelError(f"{Path(table).name}: names none of the pictures of {data.name}; give their paths or names")
    numbers = {name: f"patient-{i + 1:04d}" for i, name in enumerate(sorted(set(patients) - {""}))}
    unknown = patients.count("")
    rest = tuple(one for one in data.statements if not one.startswith("patient unknown"))
    more = (f"patient unknown of {unknown} of {len(patients)} pictures",) if unknown else ()
    return replace(data, patients=[numbers.get(name, "") for name in patients], statements=(*rest, *more))


def look_alike_groups(data: ImageData) -> list[str]:
    """A name for each picture, the same for pictures that look alike: what stands for the patient where none is known.

    Raises:
        LabelError: a picture cannot be read.
    """
    assert isinstance(data.images, ImageFiles)
    key = data.images.state()
    if key not in _GROUPS:
        _GROUPS[key] = _groups(data)
    return list(_GROUPS[key])


_GROUPS: dict[tuple[tuple[str, int, int], ...], list[str]] = {}
"""Of the same files as before: a study reads them for every training."""


def _groups(data: ImageData) -> list[str]:
    place_of = {data.file_of(place): place for place in range(len(data.images))}
    group = list(range(len(data.images)))
    for pair in compare(picture_sets(data)).near_duplicates:
        first, second = group[place_of[pair.first_series]], group[place_of[pair.second_series]]
        group = [min(first, second) if one in (first, second) else one for one in group]
    return [f"picture-{one:06d}" for one in group]
