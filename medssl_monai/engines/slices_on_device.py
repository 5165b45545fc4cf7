"""All slices of a data set on the device: loaded once, so that steps take from the host only what was drawn."""

import copy
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medssl_monai.errors import ConfigError
from medssl_monai.processes import process_rank
from medssl_monai.progress import progress_bar
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms.device_views import MADE_ON_DEVICE, DeviceViews, Item
from medssl_monai.transforms.intensity import Limits
from medssl_monai.transforms.spatial import AIR_HU

MOST_BYTES, SHARE = 20e9, 0.25
"""What "auto" takes of a device's memory at most, and of what is free; the rest is for networks and activations."""
LARGEST_SHARE = 0.75
"""Of the free memory that true may take."""
LOADED_AT_ONCE = 32
SHOWN = ("index", "partner")
"""Which slices the views of an item show, by their entries."""

Loaded = tuple[Tensor, list[tuple[int, ...]], list[Limits]]
T = TypeVar("T")

logger = logging.getLogger(__name__)


class SlicesOnDevice(DeviceViews, Dataset[Item]):
    """Views of slices that lie on a device as int16, one after another, each of its own size.

    Neighbours that are channels of these slices (`SliceDataset.channel_slices`) lie there too, each once.

    As a data set it gives drawn items without pixels: ``index``, ``epoch``, where slices have partners ``partner``, and
    for SparK ``mask``. `apply` adds the pixels. The views are those that `DeviceViews` makes of the pixels from the
    host, to the last bit on one device.

    Args:
        dataset: with a transform that `DeviceViews` takes; it is left as it is.
        device: where the slices lie.
    """

    def __init__(self, dataset: SliceDataset, device: str | torch.device) -> None:
        super().__init__(dataset.transform)
        self.dataset, self.device = dataset, torch.device(device)
        self.pixels: Tensor | None = None  # (pixels of all slices,) int16
        self._channels, self._more = dataset.channel_slices()
        count = len(dataset) + len(self._more)
        self._shapes = np.empty((count, 2), np.int64)
        self._begins = np.empty(count, np.int64)
        self._limits = np.empty((len(dataset), len(self.recipe.intensities.windows), 2))

    def load(self, num_workers: int = 0) -> None:
        """Load the slices, unless they are there, with processes that read and unpack them.

        Raises:
            StoreError: a slice cannot be read.
            NotHounsfieldError: a window in HU, and a slice that is not in HU.
        """
        if self.pixels is not None:
            return
        slices = _Measured(self.dataset, self, self._more)
        count = self.dataset.pixel_count()
        pixels = torch.empty(count, dtype=torch.int16, device=self.device)
        loader: DataLoader[Any] = DataLoader(
            slices,
            LOADED_AT_ONCE,
            num_workers=num_workers,
            collate_fn=_joined,
            generator=torch.Generator(),  # its own, so that the run's generators do not move
            pin_memory=self.device.type == "cuda",
        )
        begin = first = 0
        options: dict[str, Any] = {"desc": "slices to the device", "unit": " slices", "leave": False}
        with progress_bar(total=len(slices), shown=process_rank() == 0, **options) as bar:
            for part, shapes, limits in loader:
                pixels[begin : begin + len(part)].copy_(part, non_blocking=True)
                rows = slice(first, first + len(shapes))
                self._shapes[rows] = shapes
                if first < len(self):  # those beyond are neighbours alone, without windows of their own
                    self._limits[rows] = limits[: len(self) - first]
                begin, first = begin + len(part), rows.stop
                bar.update(len(shapes))
        areas = self._shapes.prod(1)
        self._begins = areas.cumsum() - areas
        self.pixels = pixels
        logger.info("%d slices lie on the device and take %s of its memory", len(slices), _gigabytes(2 * count))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> Item:
        item = {"index": key.index, "epoch": key.epoch}
        if self.dataset.partners is not None:
            item["partner"] = self.dataset.partners(key)
        shown = [item[name] for name in SHOWN if name in item]
        measured = ((tuple(self._shapes[index].tolist()), self._limits[index].tolist()) for index in shown)
        return self.draw_for(item, *measured)

    def apply(self, batch: Mapping[str, Any], device: str | torch.device) -> Item:
        """A collated batch -> the batch with ``views`` on the device, without ``plans``."""
        slices = [self._padded(batch[name].numpy()) for name in SHOWN if name in batch]
        return super().apply({**batch, "slices": slices}, device)

    def _padded(self, index: np.ndarray[Any, Any]) -> Tensor:
        """Slices (B, channels, H, W) int16, the smaller ones with air below and to the right."""
        assert self.pixels is not None, "load the slices first"
        shown = self._channels[index]  # (B, channels)
        shapes, begins = self._shapes[shown.ravel()], self._begins[shown.ravel()]
        out = self.pixels.new_full((shown.size, *shapes.max(0).tolist()), AIR_HU)
        places, slices = [], []
        for row, (height, width), begin in zip(out, shapes.tolist(), begins.tolist(), strict=True):
            places.append(row[:height, :width])
            slices.append(self.pixels[begin : begin + height * width].view(height, width))
        torch._foreach_copy_(places, slices)  # slices of one size in a few launches
        return out.view(*shown.shape, *out.shape[1:])


class _Measured(Dataset[tuple[np.ndarray[Any, Any], Limits]]):
    """Pixels and windows of every slice, by plain indices that the data set itself does not count.

    `more` are slices of the store, each by series and number, that are only neighbours: their windows are not needed.
    """

    def __init__(self, dataset: SliceDataset, views: DeviceViews, more: Sequence[tuple[str, int]]) -> None:
        self.dataset, self.views, self.more = copy.copy(dataset), DeviceViews(views.source), more
        self.dataset.transform = self.dataset.partners = None
        self.dataset.channel_spacing_mm = 0.0  # each slice is read alone

    def __len__(self) -> int:
        return len(self.dataset) + len(self.more)

    def __getitem__(self, index: int) -> tuple[np.ndarray[Any, Any], Limits]:
        if index >= len(self.dataset):
            return self.dataset.store.read(*self.more[index - len(self.dataset)]), ()
        item = self.dataset[SampleKey(0, index)]
        pixels = item["image"][0].numpy()
        if self.views.source.channel_spacing_mm:
            item["image"] = item["image"].expand(3, -1, -1)
        return pixels, self.views.measure(item)[1]


def _joined(slices: Sequence[tuple[np.ndarray[Any, Any], Limits]]) -> Loaded:
    pixels = np.concatenate([p.ravel() for p, _ in slices])
    return torch.from_numpy(pixels), [p.shape for p, _ in slices], [limits for _, limits in slices]


def place_slices(
    dataset: Dataset[Any], device: str | torch.device, wanted: bool | Literal["auto"]
) -> SlicesOnDevice | None:
    """The slices of a data set on the device, yet to be loaded, or None where the loader reads them in every pass.

    "auto" takes them to a GPU where they fit into `MOST_BYTES` and `SHARE` of its free memory; otherwise one line in
    the log says why not. It never does on a CPU.

    Raises:
        ConfigError: `wanted` is true and they do not fit, or their views are not made on a device; or `wanted` is none
            of the three values.
    """
    if wanted not in (True, False, "auto"):
        raise ConfigError(f"slices_on_device: must be auto, true or false, found {wanted!r}; choose one of these")
    device = torch.device(device)
    if wanted is False or (wanted == "auto" and device.type != "cuda"):
        return None
    obstacle = _obstacle(dataset, device, wanted)
    if obstacle is None:
        return SlicesOnDevice(dataset, device)  # type: ignore[arg-type]  # the obstacle would say so
    if wanted is True:
        raise ConfigError(f"slices_on_device: {obstacle}, or set slices_on_device=false")
    logger.info("the loader reads the slices in every pass, because %s", obstacle)
    return None


def _obstacle(dataset: Dataset[Any], device: torch.device, wanted: bool | Literal["auto"]) -> str | None:
    """Why slices cannot lie on the device."""
    if not isinstance(dataset, SliceDataset):
        return f"a {type(dataset).__name__} does not say how large its slices are; take a SliceDataset"
    if not isinstance(dataset.transform, MADE_ON_DEVICE):
        return f"{type(dataset.transform).__name__} makes its views on the CPU alone; take another transform"
    needed, free = 2 * dataset.pixel_count(), _free_bytes(device)
    allowed = LARGEST_SHARE * free if wanted is True else min(MOST_BYTES, SHARE * free)
    if needed > allowed:
        return (
            f"{len(dataset)} slices take {_gigabytes(needed)}, and they may take {_gigabytes(allowed)} of the "
            f"{_gigabytes(free)} that are free there; leave fewer by filters"
        )
    return None


def _free_bytes(device: torch.device) -> float:
    """Free memory of a GPU; of a CPU all memory, since the system's own figure leaves out what it would give back."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.3g} GB"


def one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items of an endless iterator, each made by a thread while the one before is used."""
    with ThreadPoolExecutor(1, "draws") as thread:
        coming = thread.submit(next, items)
        while True:
            item = coming.result()
            coming = thread.submit(next, items)
            yield item
