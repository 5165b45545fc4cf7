"""Collects an encoder's features and writes them down."""

from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from medssl_monai.classify.features import write_features


class FeatureTable:
    """Writes ``OUTPUT_DIR/features.parquet``: series_id, slice, patient, features (float32 list of D).

    Expects a MONAI evaluator over `SliceDataset` whose ``pred`` are features (D,).

    Args:
        output_dir: folder for the table.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.path = Path(output_dir) / "features.parquet"
        self.rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator."""
        engine.add_event_handler(Events.STARTED, lambda: self.rows.clear())
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Any) -> None:
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            known = {name: item[name] for name in ("series_id", "slice", "patient")}
            features = np.asarray(output["pred"].cpu(), dtype=np.float32)
            self.rows.append({**known, "slice": int(known["slice"]), "features": features})

    def _write(self, engine: Any) -> None:
        write_features(self.path, self.rows)
