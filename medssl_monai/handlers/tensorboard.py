"""Curves and pictures of a run for TensorBoard."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from medssl_monai.runs.step_log import read_rows, step_scalars


class TensorBoardRun:
    """Writes ``OUTPUT_DIR/logs/events.out.tfevents.*`` for TensorBoard.

    Every step: the scalars of the trainer's output and the learning rate. Every epoch: the validation metrics, new
    lines of ``logs/*.jsonl`` (probes, collapse guard), and the figures in ``figures/`` that have changed. A resumed run
    hides the steps that were lost. List this handler last, after those that write the files.

    Args:
        output_dir: the run's folder.
        optimizer: the learning rate of its first group is shown.
        validator: an evaluator with metrics; or None.
        every: steps between two readings of scalars on a GPU, each of which waits for the device. On a CPU scalars are
            read at every step.
    """

    def __init__(
        self, output_dir: str | Path, optimizer: Any, validator: Engine | None = None, every: int = 50
    ) -> None:
        self.run = Path(output_dir)
        self.optimizer, self.validator, self.every = optimizer, validator, every
        self._writer: Any = None
        self._pending: list[tuple[int, float, dict[str, Any]]] = []  # step, time, scalars
        self._rows: dict[Path, int] = {}
        self._drawn: dict[Path, int] = {}

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose output is a dictionary with ``loss``."""
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)
        for event in (Events.COMPLETED, Events.TERMINATE):
            engine.add_event_handler(event, self._close)

    def _open(self, engine: Any) -> None:
        # The types say int, but None, which hides nothing, is the default.
        purge: Any = engine.state.iteration + 1 if engine.state.iteration else None
        self._writer = SummaryWriter(self.run / "logs", purge_step=purge)

    def _step(self, engine: Any) -> None:
        values: dict[str, Any] = dict(step_scalars(engine.state.output))
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self._pending.append((engine.state.iteration, time.time(), values))
        if torch.device(engine.state.device).type == "cpu" or len(self._pending) >= self.every:
            self._write()

    def _write(self) -> None:
        for step, when, values in self._pending:
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", float(value), step, walltime=when)
        self._pending.clear()

    def _epoch(self, engine: Any) -> None:
        self._write()
        step = engine.state.iteration
        if self.validator is not None:
            for name, value in self.validator.state.metrics.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"validation/{name}", value, step)
        for file in sorted((self.run / "logs").glob("*.jsonl")):
            if file.name != "history.jsonl":  # the steps above
                self._tell(file)
        for file in sorted((self.run / "figures").glob("*.png")):
            self._show(file, step)

    def _tell(self, file: Path) -> None:
        rows = read_rows(file)
        for row in rows[self._rows.get(file, 0) :]:
            title = "/".join([file.stem, *(v for v in row.values() if isinstance(v, str))])
            for name, value in row.items():
                if name != "step" and isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{title}/{name}", value, row["step"])
        self._rows[file] = len(rows)

    def _show(self, file: Path, step: int) -> None:
        changed = file.stat().st_mtime_ns
        if self._drawn.get(file) != changed:
            with Image.open(file) as picture:
                self._writer.add_image(file.stem, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
            self._drawn[file] = changed

    def _close(self, engine: Any) -> None:
        self._epoch(engine)
        self._writer.close()
