"""Tables of results, for a person at a terminal. Nothing heavy but rich is imported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from medssl_monai.plain_text import plain_text
from medssl_monai.statistics.encoder_measures import MEASURES

if TYPE_CHECKING:
    from medssl_monai.labels.audit_report import AuditReport
    from medssl_monai.store.verdicts import Verdict

UNKNOWN = "–"
LOOK_ALIKES = 40  # rows of a table for a terminal
_SOURCE = ("source",)
METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1_macro": "F1",
    "auc": "AUC",
    "ece": "calibration error",
}


class _PlainTable(Table):
    """Its cells are shown as they are: names in them come from tables, tags and files, and may look like markup."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)


def _plain(text: str) -> Text:
    return Text(plain_text(text))


def _table(title: str, *words: str, numbers: Iterable[str] = (), caption: str | None = None) -> Table:
    """An empty table: columns of words, then columns of numbers."""
    table = _PlainTable(title=_plain(title), caption=None if caption is None else _plain(caption))
    for name in words:
        table.add_column(_plain(name), overflow="fold")
    for name in numbers:
        table.add_column(_plain(name), justify="right")
    return table


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
    """Of an ingestion: `verdict_counts`."""
    numbers = ("number", "files", "slices")
    table = _table("Verdicts", "outcome", "reason", "what", numbers=numbers)
    for row in verdict_counts(verdicts):
        table.add_row(row["outcome"], row["reason"], row["kind"], *(str(row[name]) for name in numbers))
    return table


def audit_tables(report: AuditReport) -> Iterator[Table]:
    """Of an audit: the sets, what they share, and the series that look alike."""
    sets = _table("Sets", "set", "kind", numbers=("series", "slices", "patients", "unknown patients"))
    for one in report.sets:
        counts = (one.series, one.slices, one.patients, one.patients_unknown)
        sets.add_row(one.name, one.kind, *map(str, counts))
    yield sets
    if report.shared:
        shared = _table("Shared", "sets", "what", "names", numbers=("number",))
        for found in report.shared:
            names = ", ".join(found.names[:3]) + (", …" if len(found.names) > 3 else "")
            shared.add_row(_sets(found.first, found.second, found.harmless), found.what, names, str(len(found.names)))
        yield shared
    if report.near_duplicates:
        ordered = sorted(report.near_duplicates, key=lambda pair: pair.harmless)
        more = f"and {len(ordered) - LOOK_ALIKES} more, see --out" if len(ordered) > LOOK_ALIKES else None
        columns = ("sets", "series or file", "class", "and series or file", "class", "what")
        alike = _table("Look-alikes", *columns, numbers=("slices", "bits", "correlation"), caption=more)
        for pair in ordered[:LOOK_ALIKES]:
            sets_of_pair = _sets(pair.first, pair.second, pair.harmless)
            words = (pair.first_series, pair.first_label, pair.second_series, pair.second_label, pair.kind)
            correlation = UNKNOWN if pair.correlation is None else f"{pair.correlation:.3f}"
            numbers = (str(pair.slices), str(pair.distance), correlation)
            alike.add_row(sets_of_pair, *words, *numbers)
        yield alike


def _sets(first: str, second: str, harmless: bool) -> str:
    return f"{first}, {second}" + (" (harmless)" if harmless else "")


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Of an evaluation (``metrics.json``): by patient, over all slices and over studies, with intervals if known."""
    intervals = metrics.get("intervals", {})
    numbers = ("slices", *METRICS.values())
    table = _table("Evaluation by patient", "patient", numbers=numbers, caption=intervals.get("note"))
    patients = metrics["per_patient"]
    for patient, values in patients.items():
        table.add_row(patient, *_figures(values, "slices"), end_section=patient == list(patients)[-1])
    table.add_row("all slices", *_figures(metrics["all_slices"], "slices"))
    if intervals.get("figures"):
        limits = (intervals["figures"].get(name) for name in METRICS)
        texts = (UNKNOWN if pair is None else f"{pair[0]:.3f} … {pair[1]:.3f}" for pair in limits)
        table.add_row(f"  {intervals['level']:.0%} interval", "", *texts)
    if metrics.get("studies"):
        table.add_row("all studies, pooled", *_figures(metrics["studies"], "studies"))
    return table


def _figures(values: Mapping[str, Any], counted: str) -> list[str]:
    return [str(values[counted]), *(UNKNOWN if values[name] is None else f"{values[name]:.3f}" for name in METRICS)]


def study_table(results: Any) -> Table:
    """Of a study: its metric, one row an encoder and head, one column a share of the labels.

    Args:
        results: `medssl_monai.experiment.results.StudyResults`.
    """
    plan = results.plan
    points = {(p.head, p.encoder, p.fraction): p for p in results.points}
    slices = {p.fraction: p.train_slices for p in results.points}
    columns = [f"{fraction:.0%}: {slices[fraction]:.0f} slices" for fraction in plan.fractions]
    brackets = "" if results.has_intervals else "In brackets the lowest and the highest seed. "
    caption = brackets + results.interval_note
    table = _table("Mean over seeds, by share of labels", "encoder", "head", numbers=columns, caption=caption)
    for head, encoder in plan.rows:
        cells = (_with_interval(points[head, encoder, fraction]) for fraction in plan.fractions)
        table.add_row(plan.row_name(head, encoder), head, *cells)
    return table


def labels_table(columns: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> Table:
    """Of a study: what more labels would bring, as `growth_table` has it."""
    table = _table("How many more labels?", *columns[:2], numbers=columns[2:], caption=note)
    for row in rows:
        table.add_row(*row)
    return table


def _with_interval(point: Any) -> str:
    if point.mean is None:
        return UNKNOWN
    low, high = (point.lowest, point.highest) if point.low is None else (point.low, point.high)
    return f"{point.mean:.3f} ({low:.2f}–{high:.2f})"


def studies_table(studies: Sequence[Mapping[str, Any]]) -> Table:
    """Of a prediction: the class of each study and its probabilities, or that it is unlike the training slices."""
    pooling = "largest" if any(study["pooling"] == "max" for study in studies) else "mean"
    title = f"Predictions by series ({pooling} of the slices' probabilities)"
    table = _table(title, "series", *_SOURCE * _named(studies), numbers=("slices", "flagged"))
    for name in ("predicted", "probabilities"):
        table.add_column(name, overflow="fold")
    for study in studies:
        shares = ", ".join(f"{c} {p:.2f}" for c, p in study["probabilities"].items())
        predicted = study["predicted"] or "none"
        if study.get("flag"):
            predicted = "not classified: unlike training"
            shares = f"distance {study['score']}, at most {study['threshold']}"
        flagged = study.get("flagged_slices", 0)
        named = [study.get("source", "")] * _named(studies)
        table.add_row(study["series_id"], *named, str(study["slices"]), str(flagged), predicted, shares)
    return table


def left_out_table(entries: Sequence[Mapping[str, Any]]) -> Table:
    """Of a prediction: what was not classified, and why."""
    words = ("series or file", *_SOURCE * _named(entries), "reason", "what it is")
    table = _table("Not classified", *words, numbers=("files",))
    for entry in entries:
        subject = entry["series_id"] or entry["source_id"]
        named = [entry.get("source", "")] * _named(entries)
        table.add_row(subject, *named, entry["reason"], entry["detail"], str(entry["files"]))
    return table


def _named(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Whether paths of sources are known."""
    return any("source" in entry for entry in entries)


def matches_table(found: Mapping[str, Any]) -> Table:
    """Of a search (``similar.json``): the cases like a query."""
    numbers = ("slice", "likeness", "percentile")
    table = _table(
        f"Like {found['query']['series_id']}",
        "series",
        "patient",
        numbers=numbers,
        caption=f"{found['compared']}; percentile: {found['percentile']}",
    )
    for match in found["matches"]:
        percentile = UNKNOWN if match["percentile"] is None else f"{match['percentile']:.1f}"
        likeness = f"{match['likeness']:.3f}"
        table.add_row(match["series_id"], match["patient"], str(match["slice"]), likeness, percentile)
    return table


def ranked_tables(found: Mapping[str, Any]) -> Iterator[Table]:
    """Of encoders without labels: a table for each group that can be compared, best first."""
    measure = MEASURES[found["measure"]]
    better = "higher" if measure.higher_is_better else "lower"
    for group in found["groups"]:
        title = f"Encoders by {found['measure']}: {better} is better"
        table = _table(title, "run", numbers=("epoch", "rank", *MEASURES))
        for row in group["encoders"]:
            values = (UNKNOWN if row[name] is None else f"{row[name]:.4g}" for name in MEASURES)
            table.add_row(row["run"], str(row["epoch"]), UNKNOWN if row["rank"] is None else str(row["rank"]), *values)
        yield table
