"""What an audit finds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medssl_monai.labels.telltales import Telltale


@dataclass(frozen=True)
class SetSummary:
    """One of the sets compared.

    Attributes:
        name: unique among the sets.
        kind: pre-training, train, validation, test, or "" for a table's rows without a split.
        patients: number of pseudonyms.
        patients_unknown: series without a patient in their tags; each counts as one patient.
        classes: number of slices of each class; empty where there are no labels.
    """

    name: str
    kind: str
    series: int
    slices: int
    patients: int
    patients_unknown: int
    classes: Mapping[str, int]


@dataclass(frozen=True)
class Shared:
    """Patients or series in two sets; `names` are pseudonyms."""

    first: str
    second: str
    what: str
    names: tuple[str, ...]
    harmless: bool


@dataclass(frozen=True)
class NearDuplicate:
    """Two series of different patients, or two pictures, with slices that look alike: in two sets, or in two classes.

    Attributes:
        first: a set, or weights with a passport.
        second: another set, or the same where the classes differ.
        first_series: series of the store, or the picture's path.
        second_series: likewise.
        first_label: class of the most similar slice; "" where it is unknown.
        second_label: likewise.
        kind: "the same file", "the same pixels" or "alike"; of a passport "seen".
        slices: number of slices of the first series with a similar slice in the second.
        distance: the smallest number of bits, of 64, in which their hashes differ; of a passport's prints, of 256.
        correlation: of the most similar pair of slices; None of a passport, which has no pixels.
        example: the numbers of that pair; None of a passport's slice.
        harmless: whether a test result stays right.
    """

    first: str
    second: str
    first_series: str
    second_series: str
    first_label: str
    second_label: str
    kind: str
    slices: int
    distance: int
    correlation: float | None
    example: tuple[int | None, int]
    harmless: bool


@dataclass(frozen=True)
class AuditReport:
    """What was compared, what is shared, and, as sentences, what could not be determined.

    Attributes:
        sets: what was compared.
        shared: patients and series.
        near_duplicates: pictures and series that look alike.
        telltales: facts of the files that tell the class.
        refusals: contradictions within a table.
        unchecked: inputs that could not be checked, and why.
        statements: what is unknown.
    """

    sets: tuple[SetSummary, ...] = ()
    shared: tuple[Shared, ...] = ()
    near_duplicates: tuple[NearDuplicate, ...] = ()
    telltales: tuple[Telltale, ...] = ()
    refusals: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    statements: tuple[str, ...] = ()

    @property
    def leaks(self) -> bool:
        """Whether the sets share, or the files tell, anything that makes a test result too good or a label wrong."""
        harmless = [*(one.harmless for one in self.shared), *(one.harmless for one in self.near_duplicates)]
        return bool(self.refusals or self.telltales) or not all(harmless)

    @property
    def exit_code(self) -> int:
        """0 if nothing was found, 1 if there is a leak, 2 if there is none in what could be checked."""
        return 1 if self.leaks else 2 if self.unchecked else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"leaks": self.leaks, **asdict(self)}

    def sentences(self) -> list[str]:
        """The findings that matter, one line each."""
        found = [
            f"{one.first} and {one.second} share {len(one.names)} {one.what}" for one in self.shared if not one.harmless
        ]
        for pair in self.near_duplicates:
            if not pair.harmless:
                first = ", ".join(filter(None, (pair.first_label, pair.first)))
                second = ", ".join(filter(None, (pair.second_label, pair.second)))
                found.append(f"{pair.kind}: {pair.first_series} ({first}) and {pair.second_series} ({second})")
        return [*self.refusals, *found, *(one.sentence for one in self.telltales)]
