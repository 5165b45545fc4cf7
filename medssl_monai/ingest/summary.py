"""What an ingestion found and did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medssl_monai.store.names_file import Name
from medssl_monai.store.verdicts import Outcome, Verdict, files_by_reason


@dataclass(frozen=True)
class IngestSummary:
    """What a run found and did.

    Attributes:
        store: the finished store's folder.
        files: how many files were found.
        series: series of these files that are in the store.
        slices: slices of those series.
        added: series that this run wrote.
        skipped: series that were there already.
        verdicts: one a series and one a stray file; their `files` add up to `files`.
        names: where each of them came from, if that was asked for; these identify patients.
        patients: of the whole store, see `SliceStore.patients_told`.
        statements: what is doubtful about series together, each with its name, such as ``one_slice_each``.
    """

    store: Path
    files: int
    series: int
    slices: int
    added: int
    skipped: int
    verdicts: tuple[Verdict, ...]
    names: tuple[Name, ...] = ()
    patients: str = ""
    statements: tuple[str, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """Files that ended in this way."""
        return sum(verdict.files for verdict in self.verdicts if verdict.outcome is outcome)

    @property
    def reasons(self) -> dict[str, int]:
        """Rejected files by reason code, most frequent first."""
        return dict(files_by_reason(self.verdicts))

    def __str__(self) -> str:
        rejected = ", ".join(f"{count} {reason}" for reason, count in self.reasons.items())
        return (
            f"{self.files} files: {self.series} series with {self.slices} slices in {self.store} "
            f"({self.added} added, {self.skipped} there already), {self.patients}; "
            f"{self.count(Outcome.ACCEPTED)} files accepted, {self.count(Outcome.REPAIRED)} repaired, "
            f"{self.count(Outcome.REJECTED)} rejected"
            + (f" ({rejected})" if rejected else "")
            + "".join(f"; {one}" for one in self.statements)
        )
