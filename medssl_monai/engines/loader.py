"""The training data loader: endless, and the same whatever the number of workers and wherever it starts."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch.utils.data import DataLoader, Dataset

from medssl_monai.engines.sampler import StepBatchSampler
from medssl_monai.engines.slices_on_device import one_ahead, place_slices
from medssl_monai.processes import process_count, process_rank
from medssl_monai.transforms.device_views import DeviceViews


class StepLoader(DataLoader[dict[str, Any]]):
    """A ``DataLoader`` over `StepBatchSampler`.

    Args:
        dataset: takes `SampleKey`, gives dictionaries of tensors (`SliceDataset` with a view transform).
        batch_size: slices an optimizer step, of all processes together.
        seed: order of the slices.
        shuffle: whether passes are permuted.
        shuffle_window: slices that are mixed with one another, where a disk should read mostly in order
            (`SliceOrder`); None mixes all.
        parts: slices of each of several stores and its share of a pass, of `pass_shares`; None takes all slices.
        num_workers: loader processes; any number gives the same batches.
        views_on_device: workers read slices and draw, and `device_views` makes the views where the network lies; the
            dataset itself is left as it is.
        slices_on_device: the pixels lie there too, loaded once by the workers when iteration begins. A thread then
            draws one batch ahead, and `device_views` makes the same views. "auto": where they fit, see `place_slices`.
        device: of the network, where slices would lie.

    Raises:
        ConfigError: ``views_on_device``, and the ``transform`` of the dataset makes views on the CPU alone; or
            ``slices_on_device`` is true, and they cannot lie there.
    """

    def __init__(
        self,
        dataset: Dataset[dict[str, Any]],
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        num_workers: int = 0,
        views_on_device: bool = False,
        slices_on_device: bool | Literal["auto"] = False,
        device: str | torch.device = "cpu",
        shuffle_window: int | None = None,
        parts: Sequence[tuple[int, float]] | None = None,
    ) -> None:
        self._slices = place_slices(dataset, device, slices_on_device)
        self._loading_workers = num_workers
        self.device_views: DeviceViews | None = self._slices
        if self._slices is not None:
            dataset, num_workers = self._slices, 0
        elif views_on_device:
            self.device_views = DeviceViews(getattr(dataset, "transform", None))
            dataset = copy.copy(dataset)
            dataset.transform = self.device_views.draw  # type: ignore[attr-defined]
        self.step_sampler = StepBatchSampler(
            len(dataset),  # type: ignore[arg-type]
            batch_size,
            seed,
            shuffle,
            processes=process_count(),
            rank=process_rank(),
            shuffle_window=shuffle_window,
            parts=parts,
        )
        super().__init__(
            dataset,
            batch_sampler=self.step_sampler,
            num_workers=num_workers,
            collate_fn=self.device_views.collate if self.device_views is not None else None,
            # Its own generator: an iterator would otherwise draw from the global one, and a resumed run would differ.
            generator=torch.Generator().manual_seed(seed),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
        )

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # fewer methods than torch's own class
        if self._slices is None:
            return super().__iter__()
        self._slices.load(self._loading_workers)
        return one_ahead(super().__iter__())

    @property
    def steps_per_pass(self) -> int:
        """Steps in a pass over the data: the usual ``epoch_length``."""
        return self.step_sampler.steps_per_pass

    def start_at(self, step: int) -> None:
        """Make the next iterator begin with the batch of ``step`` (counted from 0)."""
        self.step_sampler.start_step = step

    def __len__(self) -> int:
        """Not defined, since the batches never end.

        Raises:
            TypeError: always; Ignite reads it as "ask for the epoch length".
        """
        raise TypeError("StepLoader is endless; give the engine an epoch_length")
