"""What was logged at each step: a file that a resumed run continues, and the curve drawn from it."""

import json
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from torch import Tensor

from medssl_monai.atomic import write_atomically, write_text
from medssl_monai.errors import DivergedError
from medssl_monai.processes import process_rank


class History:
    """Keeps each step's scalars in ``OUTPUT_DIR/logs/history.jsonl`` and draws ``OUTPUT_DIR/figures/loss.png``.

    A resumed run drops the lines beyond its first step, so that the file is that of an uninterrupted run. Values stay
    on the device until an epoch ends: reading a loss waits for the GPU. A loss that is not finite stops the run before
    the checkpoint is overwritten; attach this handler before `RunCheckpoint`'s writing (order of the list).

    Args:
        output_dir: the run's folder.
        optimizer: its first group's learning rate and weight decay are logged too.

    Raises:
        DivergedError: (while training) a loss is NaN or infinite.
    """

    def __init__(self, output_dir: str | Path, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.path = Path(output_dir) / "logs" / "history.jsonl"
        self.figure = Path(output_dir) / "figures" / "loss.png"
        self.optimizer = optimizer
        self.rows: list[dict[str, float]] = []
        self._pending: list[tuple[int, dict[str, Any]]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose output is a dictionary with ``loss``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._flush)
        engine.add_event_handler(Events.TERMINATE, self._flush)
        engine.add_event_handler(Events.COMPLETED, self._draw)

    def _open(self, engine: Any) -> None:
        # Not at STARTED: a checkpoint may not be loaded yet. Steps beyond the checkpoint were lost with it.
        if not self.rows and engine.state.iteration and self.path.is_file():
            lines = (json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines())
            self.rows = [row for row in lines if row["step"] <= engine.state.iteration]

    def _note(self, engine: Any) -> None:
        output = engine.state.output
        values = {k: v.detach() for k, v in output.items() if isinstance(v, Tensor) and v.numel() == 1}
        if self.optimizer is not None:
            group = self.optimizer.param_groups[0]
            values["learning_rate"], values["weight_decay"] = group["lr"], group.get("weight_decay", 0.0)
        self._pending.append((engine.state.iteration, values))
        if engine.state.device.type == "cpu":
            self._check(*self._pending[-1])

    def _flush(self, engine: Any) -> None:
        for step, values in self._pending:
            self._check(step, values)
            self.rows.append({"step": step} | {k: float(v) for k, v in values.items()})
        self._pending.clear()
        if process_rank() > 0:
            return
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def _check(self, step: int, values: dict[str, Any]) -> None:
        loss = float(values["loss"])
        if not torch.isfinite(torch.tensor(loss)):
            raise DivergedError(
                f"the loss at step {step} is {loss}; the last checkpoint is kept: lower learning_rate, lengthen the "
                "warm-up or set amp=false, then run again"
            )

    def _draw(self, engine: Any) -> None:
        if self.rows and process_rank() == 0:
            draw_history(self.rows, self.figure, engine.state.epoch_length)


def draw_history(rows: list[dict[str, float]], path: Path, epoch_length: int) -> None:
    """Draw loss (each step, and its mean over each epoch) and learning rate against the step."""
    steps, losses = [r["step"] for r in rows], [r["loss"] for r in rows]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="#9ecae1", linewidth=1, label="step")
    epochs = [losses[i : i + epoch_length] for i in range(0, len(losses), epoch_length)]
    centres = [min((i + 0.5) * epoch_length, steps[-1]) for i in range(len(epochs))]
    axes.plot(centres, [sum(e) / len(e) for e in epochs], color="#08519c", marker="o", markersize=3, label="epoch mean")
    axes.set(xlabel="step", ylabel="training loss", title="Training loss")
    axes.legend(loc="upper right", frameon=False)
    axes.grid(alpha=0.3)
    if "learning_rate" in rows[0]:
        twin = axes.twinx()
        twin.plot(steps, [r["learning_rate"] for r in rows], color="#d95f0e", linewidth=0.8, alpha=0.7)
        twin.set_ylabel("learning rate", color="#d95f0e")
        twin.set_ylim(bottom=0)
    write_atomically(path, lambda p: figure.savefig(p, dpi=120))
