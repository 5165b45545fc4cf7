"""Who the patient of a volume file or a picture is: such files do not say, but their names or a table often do."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from medssl_monai.atomic import file_sha256
from medssl_monai.errors import InputError

COLUMNS = (("source", "path", "file", "image"), ("patient", "patient_id"))
"""Of a table: what its columns of sources and of patients may be called."""


class NamedPatients:
    """Patients of volume files and pictures by a pattern in their names, or by a table.

    What the pattern or the table gives is turned into a pseudonym, as a PatientID is: the same name gives the same one.

    Args:
        pattern: a regular expression that is searched in the name of each file, or in its whole path with ``/`` between
            folders if the pattern holds a ``/``. The group called ``patient`` names the patient, or else the first one.
        table: CSV with the columns ``source`` (or ``path``, ``file``, ``image``) and ``patient`` (or ``patient_id``),
            which wins over the pattern. A source is a file or a folder, relative to the table's folder, or the name of
            a file anywhere.

    Raises:
        InputError: the pattern is no regular expression or has no group; the table cannot be read, lacks a column, or
            names two patients for one source.

    Example:
        >>> NamedPatients(r"^([0-9.]+)_").of(Path("luna/1.3.6.1_154.png"))
        '1.3.6.1'
    """

    def __init__(self, pattern: str | None = None, table: str | Path | None = None) -> None:
        self._pattern = None if pattern is None else _compiled(pattern)
        self._by_name: dict[str, str] = {}
        self._by_place: dict[Path, str] = {}
        if table is not None:
            self._read(Path(table))
        self.digest = f"{pattern} {'' if table is None else file_sha256(Path(table))}"

    def __bool__(self) -> bool:
        return self._pattern is not None or bool(self._by_name or self._by_place)

    def of(self, path: Path) -> str:
        """The patient's name for a file; empty where neither the table nor the pattern tells."""
        if self._by_place:
            place = path.resolve()
            if (here := next((one for one in (place, *place.parents) if one in self._by_place), None)) is not None:
                return self._by_place[here]
        if path.name in self._by_name:
            return self._by_name[path.name]
        if self._pattern is None:
            return ""
        text = path.as_posix() if "/" in self._pattern.pattern else path.name
        found = self._pattern.search(text)
        return "" if found is None else (found["patient" if "patient" in self._pattern.groupindex else 1] or "")

    def _read(self, table: Path) -> None:
        try:
            with table.open(encoding="utf-8-sig", newline="") as file:
                rows = list(csv.DictReader(file, skipinitialspace=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise InputError(f"patients {table}: cannot be read as CSV ({reason}); correct it") from error
        columns = {str(name).strip().lower(): name for name in (rows[0] if rows else {})}
        sources, patients = (next((columns[one] for one in known if one in columns), "") for known in COLUMNS)
        for number, row in enumerate(rows, start=1):
            source, patient = ((row.get(column) or "").strip() for column in (sources, patients))
            if not sources or not patients or not source:
                raise InputError(
                    f"patients {table}, row {number}: needs a column {' or '.join(COLUMNS[0])} with the file, and a "
                    f"column {' or '.join(COLUMNS[1])}; add them"
                )
            if not patient:
                continue
            place = table.parent / source
            if place.exists() or "/" in source:
                known = self._by_place.setdefault(place.resolve(), patient)
            else:
                known = self._by_name.setdefault(source, patient)
            if known != patient:
                raise InputError(f"patients {table}, row {number}: its source has another patient above; keep one")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"patient_from {pattern!r}: is no regular expression ({error}); correct it") from error
    if not compiled.groups:
        raise InputError(
            f"patient_from {pattern!r}: must have a group that names the patient; put it in brackets, as in ^([^_]+)_"
        )
    return compiled
