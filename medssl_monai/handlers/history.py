"""The scalars of each training step, as a file and as a curve."""

import logging
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medssl_monai.drawing import save_figure
from medssl_monai.errors import DivergedError
from medssl_monai.processes import process_rank
from medssl_monai.runs.step_log import AT_END, StepLog, step_scalars

logger = logging.getLogger(__name__)


class History:
    """Keeps each step's scalars in ``OUTPUT_DIR/logs/history.jsonl`` and draws ``OUTPUT_DIR/figures/loss.png``.

    A resumed run drops the lines after the step it starts from, so the file equals that of an uninterrupted run. Values
    stay on the device until an epoch ends, because reading a loss waits for the GPU. A loss that is not finite stops
    the run before the checkpoint is overwritten; list this handler before `RunCheckpoint`.

    Args:
        output_dir: the run's folder.
        optimizer: the learning rate and weight decay of its first group are logged as well.

    Raises:
        DivergedError: (while training) a loss is NaN or infinite.
    """

    def __init__(self, output_dir: str | Path, optimizer: torch.optim.Optimizer | None = None) -> None:
        self.log = StepLog(output_dir, "history")
        self.figure = Path(output_dir) / "figures" / "loss.png"
        self.optimizer = optimizer
        self._pending: list[tuple[int, dict[str, Any]]] = []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer whose output is a dictionary with ``loss``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self.log.resume)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._flush)
        engine.add_event_handler(Events.TERMINATE, self._flush)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _note(self, engine: Any) -> None:
        values: dict[str, Any] = dict(step_scalars(engine.state.output))
        if self.optimizer is not None:
            group = self.optimizer.param_groups[0]
            values["learning_rate"], values["weight_decay"] = group["lr"], group.get("weight_decay", 0.0)
        self._pending.append((engine.state.iteration, values))
        if engine.state.device.type == "cpu":
            self._check(*self._pending[-1])

    def _flush(self, engine: Any) -> None:
        for step, values in self._pending:
            self._check(step, values)
            self.log.rows.append({"step": step} | {k: float(v) for k, v in values.items()})
        self._pending.clear()
        if process_rank() == 0:
            self.log.write()

    def _check(self, step: int, values: dict[str, Any]) -> None:
        loss = float(values["loss"])
        if not torch.isfinite(torch.tensor(loss)):
            raise DivergedError(
                f"the loss at step {step} is {loss}; the last checkpoint is kept: lower learning_rate, lengthen the "
                "warm-up or set amp=false, then run again"
            )

    def _finish(self, engine: Any) -> None:
        self.log.resume(engine)  # a finished run that is started again has no epoch
        if self.log.rows and process_rank() == 0:
            draw_history(self.log.rows, self.figure, engine.state.epoch_length)
            logger.info(
                "training loss %.4f at step %d", self.log.rows[-1]["loss"], self.log.rows[-1]["step"], extra=AT_END
            )


def draw_history(rows: list[dict[str, float]], path: Path, epoch_length: int) -> None:
    """Draw loss (each step, and its mean over each epoch) and learning rate against the step."""
    steps, losses = [r["step"] for r in rows], [r["loss"] for r in rows]
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, color="#9ecae1", linewidth=1, label="loss of a step")
    epochs = [slice(i, i + epoch_length) for i in range(0, len(losses), epoch_length)]
    centres, means = ([sum(values[e]) / len(values[e]) for e in epochs] for values in (steps, losses))
    axes.plot(centres, means, color="#08519c", marker="o", markersize=3, label="mean of an epoch")
    axes.set(xlabel="step", ylabel="training loss", title="Training loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if "learning_rate" in rows[0]:
        twin = axes.twinx()
        rates = [r["learning_rate"] for r in rows]
        twin.plot(steps, rates, color="#d95f0e", linewidth=0.8, alpha=0.7, label="learning rate")
        twin.set_ylabel("learning rate", color="#d95f0e")
        twin.set_ylim(bottom=0)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)  # no line can cross it there
    save_figure(figure, path)
