"""An audit for a reader at a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from medssl_monai.labels.audit import AuditReport

__all__ = ["audit_tables"]


def audit_tables(report: AuditReport) -> Iterator[Table]:
    """The sets; what they share; and the series that look alike."""
    sets = _table("Sets", ("set", "kind"), ("series", "slices", "patients", "unknown patients"))
    for one in report.sets:
        counts = (one.series, one.slices, one.patients, one.patients_unknown)
        sets.add_row(one.name, one.kind, *map(str, counts))
    yield sets
    if report.shared:
        shared = _table("Shared", ("sets", "what", "names"), ("number",))
        for found in report.shared:
            names = ", ".join(found.names[:3]) + (", …" if len(found.names) > 3 else "")
            shared.add_row(_sets(found.first, found.second, found.harmless), found.what, names, str(len(found.names)))
        yield shared
    if report.near_duplicates:
        alike = _table("Look-alikes", ("sets", "series", "and series"), ("slices", "bits", "correlation"))
        for pair in report.near_duplicates:
            numbers = (str(pair.slices), str(pair.distance), f"{pair.correlation:.3f}")
            alike.add_row(
                _sets(pair.first, pair.second, pair.harmless), pair.first_series, pair.second_series, *numbers
            )
        yield alike


def _table(title: str, words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title)
    for name in words:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _sets(first: str, second: str, harmless: bool) -> str:
    return f"{first}, {second}" + (" (harmless)" if harmless else "")
