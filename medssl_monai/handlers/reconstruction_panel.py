"""A picture of what SparK sees and what it makes of the rest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from medssl_monai.drawing import save_figure
from medssl_monai.methods.spark import SparK
from medssl_monai.networks.masked import GRID_STRIDE
from medssl_monai.processes import process_rank
from medssl_monai.store.epochs import SampleKey


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
        middle = 1 if getattr(self.dataset, "channel_spacing_mm", 0) else 0  # the slice between its neighbours
        draw_reconstructions(self.method, image, mask, self.mean, self.std, title, self.path, middle)


def draw_reconstructions(
    method: SparK,
    image: Tensor,
    mask: Tensor,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    title: str,
    path: Path,
    channel: int = 0,
) -> None:
    """One row a slice: input, visible part, prediction and reconstruction, in evaluation mode.

    Args:
        method: with its weights.
        image: views (B, C, H, W), of which one channel is shown.
        mask: (B, 1, H/32, W/32) bool, True = visible.
        mean: what the views subtract, to undo it.
        std: what the views divide by.
        title: over the picture.
        path: PNG to write.
        channel: which is shown.
    """
    training = method.training
    method.eval()
    pictures = {"input": image} | method.reconstruct(image, mask)
    method.train(training)
    pictures["visible part"] = hide_masked(pictures.pop("masked"), mask.to(image.device))
    shape = (1, -1, 1, 1)
    means, stds = torch.tensor(mean).view(shape), torch.tensor(std).view(shape)
    columns = ("input", "visible part", "prediction", "reconstruction")
    figure = Figure(figsize=(2.2 * len(columns), 2.2 * len(image) + 0.5), layout="constrained")
    axes = figure.subplots(len(image), len(columns), squeeze=False)
    for column, name in enumerate(columns):
        axes[0, column].set_title(name, fontsize=10)
        windowed = (pictures[name].float().cpu() * stds + means).clamp(0, 1)
        for cell, picture in zip(axes[:, column], windowed, strict=True):
            show_picture(cell, picture[channel].numpy())
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path, dpi=110)


def hide_masked(views: Tensor, mask: Tensor) -> Tensor:
    """Views (..., H, W) with NaN where a mask (..., H/32, W/32) bool hides them."""
    seen = mask.repeat_interleave(GRID_STRIDE, -2).repeat_interleave(GRID_STRIDE, -1)
    return views.masked_fill(~seen, torch.nan)


def show_picture(axes: Axes, picture: npt.NDArray[np.floating[Any]]) -> None:
    """A picture (H, W) in [0, 1] without ticks; hidden pixels (NaN) in red."""
    axes.set_facecolor("#b04a3a")
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
