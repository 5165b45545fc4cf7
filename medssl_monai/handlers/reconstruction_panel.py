"""A picture of what SparK sees and what it makes of the rest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from torch import Tensor

from medssl_monai.atomic import write_atomically
from medssl_monai.methods.spark import SparK
from medssl_monai.processes import process_rank
from medssl_monai.store.dataset import SampleKey


class ReconstructionPanel:
    """Draws input, masked input and reconstruction of a few slices to ``OUTPUT_DIR/figures/reconstruction.png``.

    The slices are spread evenly over the data, and are the same each time. Drawn every ``interval`` epochs and at the
    end, in evaluation mode, so that training is not touched.

    Args:
        method: the SparK being trained.
        dataset: gives ``views`` and ``mask`` for a `SampleKey`.
        output_dir: the run's folder.
        mean: what the views subtract, to undo it.
        std: what the views divide by.
        count: slices shown.
        interval: epochs between two pictures.
    """

    def __init__(
        self,
        method: SparK,
        dataset: Any,
        output_dir: str | Path,
        mean: float | Sequence[float],
        std: float | Sequence[float],
        count: int = 5,
        interval: int = 10,
    ) -> None:
        self.method, self.dataset, self.interval = method, dataset, interval
        self.path = Path(output_dir) / "figures" / "reconstruction.png"
        self.mean, self.std = mean, std
        self.count = min(count, len(dataset))

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Draw what the method has learned so far; the first process does."""
        if process_rank() > 0:
            return
        self.draw(engine.state.device, f"SparK after {engine.state.epoch} epochs")

    def draw(self, device: str | torch.device, title: str) -> None:
        """Draw now."""
        chosen = np.linspace(0, len(self.dataset) - 1, self.count).round().astype(int)
        items = [self.dataset[SampleKey(0, int(i))] for i in chosen]
        image = torch.stack([item["views"][0] for item in items]).to(device)
        mask = torch.stack([item["mask"] for item in items]).to(device)
        training = self.method.training
        self.method.eval()
        pictures = self.method.reconstruct(image, mask)
        self.method.train(training)
        columns = {"input": self._windowed(image)} | {
            name: self._windowed(pictures[key])
            for name, key in (
                ("visible part", "masked"),
                ("prediction", "prediction"),
                ("reconstruction", "reconstruction"),
            )
        }
        hidden = ~mask.repeat_interleave(32, 2).repeat_interleave(32, 3)
        columns["visible part"] = columns["visible part"].masked_fill(hidden.expand_as(image).cpu(), torch.nan)
        draw_reconstructions(columns, title, self.path)

    def _windowed(self, views: Tensor) -> Tensor:
        """Undo the normalisation: (B, C, H, W) in [0, 1] of the window, on the CPU."""
        shape = (1, -1, 1, 1)
        mean, std = torch.tensor(self.mean).view(shape), torch.tensor(self.std).view(shape)
        return (views.float().cpu() * std + mean).clamp(0, 1)


def draw_reconstructions(columns: Mapping[str, Tensor], title: str, path: Path) -> None:
    """One row a slice, one column a kind of picture.

    Args:
        columns: name -> (B, C, H, W) in [0, 1], NaN for hidden pixels; the first channel is shown.
        title: over the picture.
        path: PNG to write.
    """
    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(2.2 * len(columns), 2.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for column, (name, pictures) in enumerate(columns.items()):
        axes[0, column].set_title(name, fontsize=10)
        for row in range(rows):
            axes[row, column].set_facecolor("#b04a3a")
            axes[row, column].imshow(pictures[row, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
    figure.suptitle(title, fontsize=11)
    write_atomically(path, lambda p: figure.savefig(p, dpi=110))
