"""Verdicts for a reader at a terminal."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from medssl_monai.store.verdicts import Verdict

__all__ = ["verdict_counts", "verdict_table"]


def verdict_counts(verdicts: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Series, files and slices by outcome and reason, most files first."""
    totals: dict[tuple[str, str, str], Counter[str]] = {}
    for verdict in verdicts:
        key = (verdict.outcome.value, verdict.reason.value if verdict.reason else "", verdict.kind)
        totals.setdefault(key, Counter()).update(number=1, files=verdict.files, slices=verdict.slices)
    rows = [
        {"outcome": outcome, "reason": reason, "kind": kind, **count}
        for (outcome, reason, kind), count in totals.items()
    ]
    return sorted(rows, key=lambda row: (row["outcome"], -row["files"], row["reason"]))


def verdict_table(verdicts: Iterable[Verdict]) -> Table:
    """A table of `verdict_counts`."""
    table = Table(title="Verdicts")
    for name in ("outcome", "reason", "what"):
        table.add_column(name)
    for name in ("number", "files", "slices"):
        table.add_column(name, justify="right")
    for row in verdict_counts(verdicts):
        numbers = [str(row[name]) for name in ("number", "files", "slices")]
        table.add_row(row["outcome"], row["reason"], row["kind"], *numbers)
    return table
