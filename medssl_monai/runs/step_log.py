"""What a run records at its steps: files of JSON lines in ``RUN/logs``, which a resumed run continues."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from medssl_monai.atomic import write_text

AT_END = {"at_end": True}
"""``extra`` of log records that `PretrainedRun.summary` repeats."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none if there is no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def step_scalars(output: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one element in a trainer's output, detached and still on their device."""
    return {name: value.detach() for name, value in output.items() if isinstance(value, Tensor) and value.numel() == 1}


class StepLog:
    """Rows with a ``step``, in memory and in the file ``OUTPUT_DIR/logs/NAME.jsonl``.

    Args:
        output_dir: the run's folder.
        name: of the file, without its suffix.
    """

    def __init__(self, output_dir: str | Path, name: str) -> None:
        self.path = Path(output_dir) / "logs" / f"{name}.jsonl"
        self.rows: list[dict[str, Any]] = []

    def resume(self, engine: Any) -> None:
        """Read the rows up to the step at which a resumed run stands; later rows were lost with their steps.

        Attach it to ``EPOCH_STARTED`` rather than ``STARTED``, at which the checkpoint may not be loaded yet.
        """
        if not self.rows and engine.state.iteration:
            self.rows = [row for row in read_rows(self.path) if row["step"] <= engine.state.iteration]

    def write(self, *rows: dict[str, Any]) -> None:
        """Add rows and write the file."""
        self.rows += rows
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


def probe_line(row: dict[str, Any]) -> str:
    """``probe of plane at step 60: kNN 0.91, linear 0.88, chance 0.33``."""
    return (
        f"probe of {row['label']} at step {row['step']}: kNN {row['knn']:.3f}, linear {row['linear']:.3f}, "
        f"chance {row['chance']:.3f}"
    )


def embedding_line(row: dict[str, Any]) -> str:
    """``no collapse at step 60: embedding spread 0.41, effective rank 12.3``."""
    verdict = "collapse" if row["collapsed"] else "no collapse"
    return (
        f"{verdict} at step {row['step']}: embedding spread {row['embedding_std']:.3f}, effective rank "
        f"{row['effective_rank']:.2f}"
    )
