"""Results for a reader at a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

__all__ = ["comparison_table", "metrics_table", "studies_table"]


def metrics_table(metrics: Mapping[str, Any]) -> Table:
    """Accuracy figures by patient and over all slices, from ``metrics.json``."""
    table = Table(title="Evaluation by patient")
    table.add_column("patient")
    for name in ("slices", "accuracy", "balanced accuracy", "AUC"):
        table.add_column(name, justify="right")
    rows = {**metrics["per_patient"], "all slices": metrics["all_slices"]}
    for patient, values in rows.items():
        auc = "–" if values["auc"] is None else f"{values['auc']:.3f}"
        figures = [f"{values[name]:.3f}" for name in ("accuracy", "balanced_accuracy")]
        table.add_row(patient, str(values["slices"]), *figures, auc, end_section=patient == list(rows)[-2])
    return table


def studies_table(studies: Sequence[Mapping[str, Any]]) -> Table:
    """Predicted class of each study, with its probabilities."""
    table = Table(title="Predictions by study (mean of the slices' probabilities)")
    for name in ("series", "slices", "predicted", "probabilities"):
        table.add_column(name)
    for study in studies:
        shares = ", ".join(f"{c} {p:.2f}" for c, p in study["probabilities"].items())
        table.add_row(study["series_id"], str(study["slices"]), study["predicted"], shares)
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
