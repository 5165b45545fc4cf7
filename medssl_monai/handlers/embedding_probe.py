"""Evaluates the features during pre-training: probes on labels, and a figure."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from torch import nn

from medssl_monai.classify.probes import FREE_COLUMNS, QUARTERS, encoder_features, free_labels, probe, series_lengths
from medssl_monai.drawing import class_styles, natural_order, picture_text, save_figure
from medssl_monai.processes import process_rank
from medssl_monai.runs.step_log import AT_END, StepLog, probe_line
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.selection import USED_COLUMNS

logger = logging.getLogger(__name__)

LEGEND_ROWS = 24


class EmbeddingProbe:
    """Runs a kNN and a linear probe of the frozen encoder every ``interval`` epochs and at the end of the last round.

    Writes ``OUTPUT_DIR/logs/probes.jsonl``, one line for each label and time, and
    ``OUTPUT_DIR/figures/embeddings.png``, the first two principal components with one panel for each label.

    Args:
        encoder: (B, 3, H, W) -> (B, D).
        store: the slices.
        transform: the evaluation view (`LabelledViewd` with ``augment=False``).
        output_dir: the run's folder.
        rows: labelled slices with ``label_name``; None takes the labels that the index holds (`free_labels`).
        filters: slices of the store, used if no rows are given.
        count: number of slices, evenly spread.
        interval: epochs between two probes.
    """

    def __init__(
        self,
        encoder: nn.Module,
        store: SliceStore,
        transform: Callable[[dict[str, Any]], Any],
        output_dir: str | Path,
        rows: Sequence[dict[str, Any]] | None = None,
        filters: Any = None,
        count: int = 256,
        interval: int = 20,
    ) -> None:
        found = len(rows) if rows is not None else store.count(filters)
        chosen = np.linspace(0, found - 1, min(count, found)).round().astype(int).tolist()
        if rows is not None:
            self.rows = [rows[i] for i in chosen]
        else:
            self.rows = store.rows_at(chosen, filters, [*USED_COLUMNS, *FREE_COLUMNS])
        if rows is not None:
            self.labels = {"label": [row["label_name"] for row in self.rows]}
        else:
            self.labels = free_labels(self.rows, series_lengths(store, (row["series_id"] for row in self.rows)))
        self.dataset = SliceDataset(store, rows=self.rows, transform=transform)
        self.encoder, self.interval = encoder, interval
        self.log = StepLog(output_dir, "probes")
        self.figure = Path(output_dir) / "figures" / "embeddings.png"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.log.resume)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Any) -> None:
        """Probe now, in the first process."""
        if process_rank() == 0:
            state = engine.state
            last = state.iteration == state.max_epochs * state.epoch_length and not getattr(
                engine, "more_rounds", False
            )
            self.look(state.iteration, last)

    def _finish(self, engine: Any) -> None:
        if getattr(engine, "more_rounds", False):
            return
        self.log.resume(engine)  # a finished run that is started again has no epoch
        if not self.log.rows or self.log.rows[-1]["step"] != engine.state.iteration:
            self(engine)

    def look(self, step: int, last: bool = False) -> list[dict[str, Any]]:
        """Probe, draw, log and return the new rows; `last` where nothing follows.

        Mode and statistics of the encoder do not change.
        """
        training = self.encoder.training
        features = encoder_features(self.encoder, self.dataset)
        self.encoder.train(training)
        patients = [row["patient"] for row in self.rows]
        rows = [
            {"step": step, "label": name, **probe(features, values, patients)}
            for name, values in self.labels.items()
            if len(set(values)) > 1 and min(Counter(values).values()) > 1  # one slice cannot be on both sides
        ]
        self.log.write(*rows)
        if len(features) > 2:
            draw_embeddings(features, self.labels, self.figure, f"Features after step {step}")
        for row in rows:
            logger.info("%s", probe_line(row), extra=AT_END if last else None)
        return rows


def draw_embeddings(features: Any, labels: dict[str, list[str]], path: Path, title: str) -> None:
    """Draw features (N, D) on their first two principal components: a panel for each label, a colour for each value."""
    points = PCA(2, svd_solver="full").fit_transform(features)
    ordered = {
        name: [q for q in QUARTERS if q in values] if name == "place" else natural_order(values)
        for name, values in labels.items()
    }
    columns = 1 + (max(map(len, ordered.values())) - 1) // LEGEND_ROWS
    figure = Figure(figsize=((5.4 + 1.4 * columns) * len(labels), 4.6), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(labels), squeeze=False)[0], labels.items(), strict=True):
        for value, style in zip(ordered[name], class_styles(len(ordered[name])), strict=True):
            mine = np.asarray(values) == value
            axes.scatter(*points[mine].T, s=14, label=picture_text(value), alpha=0.8, linewidths=0, **style)
        axes.set(title=picture_text(name), xlabel="first component", ylabel="second component")
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1), ncols=columns)
    figure.suptitle(title)
    save_figure(figure, path, dpi=110)
