"""Results for a reader at a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

__all__ = ["comparison_table", "left_out_table", "matches_table", "metrics_table", "studies_table", "study_table"]


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
        points: `medssl_monai.study.results.Point`.
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
