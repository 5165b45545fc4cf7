"""Results for a reader at a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.table import Table

from medssl_monai.labels.audit import AuditReport
from medssl_monai.store.verdicts import Verdict

COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1",
    "auc": "AUC",
    "ece": "calibration error",
}


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Figures by patient, over all slices and over studies, from ``metrics.json``; intervals where there are any."""
    intervals = metrics.get("intervals", {})
    table = Table(title="Evaluation by patient", caption=intervals.get("note"))
    table.add_column("patient")
    for name in ("slices", *COLUMNS.values()):
        table.add_column(name, justify="right")
    patients = metrics["per_patient"]
    for patient, values in patients.items():
        table.add_row(patient, *_figures(values, "slices"), end_section=patient == list(patients)[-1])
    table.add_row("all slices", *_figures(metrics["all_slices"], "slices"))
    if intervals.get("figures"):
        limits = (intervals["figures"].get(name) for name in COLUMNS)
        texts = ("–" if pair is None else f"{pair[0]:.3f} … {pair[1]:.3f}" for pair in limits)
        table.add_row(f"  {intervals['level']:.0%} interval", "", *texts)
    if metrics.get("studies"):
        table.add_row("all studies, pooled", *_figures(metrics["studies"], "studies"))
    return table


def _figures(values: Mapping[str, Any], counted: str) -> list[str]:
    return [str(values[counted]), *("–" if values[name] is None else f"{values[name]:.3f}" for name in COLUMNS)]


def studies_table(studies: Sequence[Mapping[str, Any]]) -> Table:
    """Predicted class of each study, with its probabilities; or that it is unlike what the classifier learned from."""
    pooling = "largest" if any(study["pooling"] == "max" for study in studies) else "mean"
    table = Table(title=f"Predictions by study ({pooling} of the slices' probabilities)")
    for name in ("series", "slices", "flagged", "predicted", "probabilities"):
        table.add_column(name, justify="right" if name in {"slices", "flagged"} else "left")
    for study in studies:
        shares = ", ".join(f"{c} {p:.2f}" for c, p in study["probabilities"].items())
        predicted = study["predicted"]
        if study.get("flag"):
            predicted, shares = (
                "not classified: unlike training",
                f"distance {study['score']}, at most {study['threshold']}",
            )
        flagged = study.get("flagged_slices", 0)
        table.add_row(study["series_id"], str(study["slices"]), str(flagged), predicted or "none", shares)
    return table


def left_out_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """What was not classified, and why."""
    table = Table(title="Not classified")
    for name in ("series or file", "files", "reason", "what it is"):
        table.add_column(name, justify="right" if name == "files" else "left")
    for entry in entries:
        subject = entry["series_id"] or entry["source_id"]
        table.add_row(subject, str(entry["files"]), entry["reason"], entry["detail"])
    return table


def matches_table(found: Mapping[str, Any]) -> Table:
    """Cases like a query, from ``similar.json``."""
    table = Table(title=f"Like {found['query']['series_id']}", caption=found["compared"])
    for name in ("series", "slice", "patient", "likeness"):
        table.add_column(name, justify="right" if name in {"slice", "likeness"} else "left")
    for match in found["matches"]:
        table.add_row(match["series_id"], str(match["slice"]), match["patient"], f"{match['likeness']:.3f}")
    return table


def comparison_table(title: str, columns: Sequence[str], rows: Mapping[str, Mapping[str, float]]) -> Table:
    """Balanced accuracy: one row a method, one column a patient.

    Args:
        title: over the table.
        columns: patients.
        rows: method -> patient -> balanced accuracy in [0, 1].
    """
    table = Table(title=title)
    table.add_column("method")
    for name in (*columns, "mean"):
        table.add_column(name, justify="right")
    for method, values in rows.items():
        figures = [values[c] for c in columns]
        table.add_row(method, *(f"{v:.3f}" for v in figures), f"{sum(figures) / len(figures):.3f}")
    return table


def study_table(points: Sequence[Any], note: str) -> Table:
    """A study's metric: one row an encoder and head, one column a share of the labels.

    Args:
        points: `medssl_monai.experiment.results.Point`.
        note: on the intervals.
    """
    table = Table(title="Mean over seeds, by share of labels", caption=note)
    table.add_column("encoder")
    table.add_column("head")
    fractions = sorted({p.fraction for p in points})
    for fraction in fractions:
        table.add_column(f"{fraction:.0%}", justify="right")
    for head, encoder in dict.fromkeys((p.head, p.encoder) for p in points):
        row = {p.fraction: p for p in points if (p.head, p.encoder) == (head, encoder)}
        table.add_row(encoder, head, *(_with_interval(row[f]) for f in fractions))
    return table


def _with_interval(point: Any) -> str:
    if point.mean is None:
        return "–"
    return f"{point.mean:.3f}" + ("" if point.low is None else f" ({point.low:.2f}–{point.high:.2f})")


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
