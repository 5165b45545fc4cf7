"""Pre-training: one optimizer step of any method."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import Tensor

from medssl_monai.engines.captured_step import Batch, captured_step
from medssl_monai.engines.compilation import Compilation
from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.precision import check_bfloat16
from medssl_monai.engines.resumable import ResumableTrainer
from medssl_monai.errors import ConfigError
from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.shared_weights import SharedWeights
from medssl_monai.networks.process_batch_norm import use_process_batch_norm
from medssl_monai.optimizers.kernels import choose_kernels
from medssl_monai.processes import average_gradients, process_count, process_mean, process_rank

logger = logging.getLogger(__name__)


class Schedule(Protocol):
    """Sets an optimizer's rates for a step, from the step alone."""

    def apply(self, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write learning rate and weight decay into the parameter groups."""


class PretrainTrainer(ResumableTrainer, SupervisedTrainer):
    """Trains a `Method` on views. One iteration is one optimizer step.

    Several processes (`start_processes`) share each batch and compute what one process would compute on the whole
    batch: batch norm, queues, codes and gradients are taken over all of them.

    It is a MONAI ``SupervisedTrainer``, as ``monai.fl.client.MonaiAlgo`` asks for, which calls `run` once a round with
    other weights in ``network`` and a higher ``state.max_epochs``. The method itself computes the loss. ``network`` is
    the part of the method that sites of a federation exchange (`SharedWeights`).

    Args:
        device: device of the method.
        max_epochs: epochs of ``epoch_length`` steps.
        train_data_loader: gives batches of views (``views``, ``index`` and, for SparK, ``mask``).
        method: the method to train; its hooks are called once for each optimizer step.
        optimizer: over the method's parameters.
        schedules: applied before each step.
        epoch_length: steps an epoch; by default one pass over the data.
        accumulation_steps: number of micro-batches that each batch is split into, to save memory. The step's batch size
            does not change, but batch norm then takes the statistics of micro-batches.
        clip_norm: largest global gradient norm, or None.
        amp: bfloat16 autocast, on GPUs and on CPUs with `cpu_has_bfloat16`, where a step takes about half as long. On
            other CPUs it would be many times slower.
        channels_last: memory format of weights and views.
        cuda_graph: record forward and backward pass as a CUDA graph and replay it (`CapturedStep`), with the same
            results. "auto" does so on a GPU, in one process, without accumulation or recomputation, and for methods
            that are `capturable`; otherwise one line in the log says why not. True refuses to run without.
        compile_blocks: compile residual blocks, and stages of SparK's decoder, one by one with ``torch.compile``: True
            at once, "auto" in recorded steps of a run that is long enough to earn it (`Compilation`).
        train_handlers: MONAI/Ignite handlers, attached in this order.
        total_epochs: epochs of all rounds together, where a training is run in rounds of ``max_epochs``. The schedules
            span them. By default ``state.max_epochs``, also where that is changed.

    Raises:
        ConfigError: a schedule does not fit the length of the run, more than `total_epochs` are asked for, the batch
            cannot be split evenly, `amp` on a CPU without bfloat16, or `cuda_graph` is true where the step cannot be
            recorded.

    Example:
        >>> loader = StepLoader(dataset, batch_size=64, seed=0)  # doctest: +SKIP
        >>> method = MoCo("resnet50", queue_length=4096)  # doctest: +SKIP
        >>> optimizer = moco_sgd(method, lr=0.03)  # doctest: +SKIP
        >>> PretrainTrainer("cuda", 100, loader, method, optimizer).run()  # doctest: +SKIP
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: StepLoader,
        method: Method,
        optimizer: torch.optim.Optimizer,
        schedules: Sequence[Schedule] = (),
        epoch_length: int | None = None,
        accumulation_steps: int = 1,
        clip_norm: float | None = None,
        amp: bool = False,
        channels_last: bool = True,
        cuda_graph: bool | Literal["auto"] = "auto",
        compile_blocks: bool | Literal["auto"] = "auto",
        train_handlers: Sequence[Any] = (),
        total_epochs: int | None = None,
    ) -> None:
        device = torch.device(device)
        if amp:
            check_bfloat16(device)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.method = method.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]
        if process_count() > 1:
            use_process_batch_norm(self.method)
        _tell_repeats(train_data_loader)
        self.device_views = train_data_loader.device_views
        choose_kernels(optimizer, fused=device.type == "cuda")
        self.schedules = tuple(schedules)
        self.clip_norm = clip_norm
        self.total_epochs = total_epochs
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=SharedWeights(self.method),
            optimizer=optimizer,
            loss_function=_loss_of,
            epoch_length=epoch_length or train_data_loader.steps_per_pass,
            # bfloat16 keeps float32's range, so no gradient scaling (and no scaler state) is needed.
            amp=False,
            decollate=False,
            accumulation_steps=accumulation_steps,
            train_handlers=list(train_handlers),
        )
        self.autocast = amp
        self.captured = captured_step(self.method, self._compute, device, accumulation_steps, cuda_graph)
        self.compilation = Compilation(self.method, self.captured, compile_blocks)
        self.add_event_handler(Events.STARTED, self._allow_recordings)
        self.add_event_handler(Events.COMPLETED, self._release)
        self._check_length()
        for schedule in self.schedules:  # one that does not fit the run is refused before anything is written
            schedule.apply(optimizer, self._progress_at(0))

    def run(self) -> None:  # type: ignore[override]  # as MONAI's own
        """Train until ``state.max_epochs``; see `ResumableTrainer.run`.

        Raises:
            ConfigError: these are more than `total_epochs`.
        """
        self._check_length()
        super().run()

    def _check_length(self) -> None:
        if self.total_epochs is not None and self.state.max_epochs > self.total_epochs:
            raise ConfigError(
                f"max_epochs: the schedules of this training end after {self.total_epochs} epochs, and "
                f"{self.state.max_epochs} are asked for; set max_epochs to the epochs of all rounds together"
            )

    @property
    def more_rounds(self) -> bool:
        """Whether further calls of `run` are to come before `total_epochs` are trained."""
        return self.total_epochs is not None and self.state.max_epochs < self.total_epochs

    @property
    def progress(self) -> Progress:
        """The position of the run, in steps counted from 0."""
        return self._progress_at(self.state.iteration - 1)

    def _progress_at(self, step: int) -> Progress:
        length, epochs = self.state.epoch_length, self.total_epochs or self.state.max_epochs
        return Progress(step=step, total_steps=length * epochs, epoch=step // length, steps_per_epoch=length)

    def _iteration(self, engine: Any, batchdata: Batch) -> dict[str, Tensor]:
        progress = self.progress
        for schedule in self.schedules:
            schedule.apply(self.optimizer, progress)
        self.method.train()
        self.method.before_step(progress)
        self.optimizer.zero_grad(set_to_none=True)
        if self.device_views is not None:
            batchdata = self.device_views.apply(batchdata, self.state.device)
        output = self._accumulate(batchdata, progress)
        average_gradients(self.method.parameters())
        self.method.after_backward(progress)
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.method.parameters(), self.clip_norm)
        self.optimizer.step()
        self.method.after_step(progress)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        self.compilation.after_step(progress.total_steps - progress.step - 1)
        return output

    def _allow_recordings(self) -> None:
        if self.captured is not None:
            self.captured.recordings = 0  # each round records again, which is no change of the computation

    def _release(self) -> None:
        if self.captured is not None:
            self.captured.forget()  # the graph holds the memory of a whole step

    def _accumulate(self, batchdata: Batch, progress: Progress) -> dict[str, Tensor]:
        """Accumulate gradients of the mean loss over the micro-batches; return the means of their scalars, detached."""
        parts: list[dict[str, Tensor]] = []
        compute = self._compute if self.captured is None else self.captured
        for part in split_batch(batchdata, self.accumulation_steps):
            parts.append(compute(self._to_device(part), progress))
        means = {name: torch.stack([part[name].float() for part in parts]).mean(0) for name in parts[0]}
        return {name: process_mean(value) for name, value in means.items()}

    def _compute(self, part: Batch, progress: Progress) -> dict[str, Tensor]:
        """Forward and backward pass of a part on the device; its scalars, detached."""
        result = self._forward(part, progress)
        torch.autograd.backward(result["loss"] / self.accumulation_steps)
        return {name: value.detach() for name, value in result.items()}

    def _forward(self, part: Batch, progress: Progress) -> dict[str, Tensor]:
        try:
            with self._precision():
                scalars: dict[str, Tensor] = self.method(part, progress)
                return scalars
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ConfigError(
                f"batch norm needs more than one value per channel, found parts of {len(part['views'][0])} slice(s); "
                f"raise batch_size, or lower accumulation_steps ({self.accumulation_steps})"
            ) from error

    def _precision(self) -> AbstractContextManager[None]:
        return torch.autocast(self.state.device.type, torch.bfloat16) if self.autocast else nullcontext()

    def _to_device(self, batch: Batch) -> Batch:
        prepared = self.method.prepare(batch)
        moved: Batch = {k: self._moved(v) for k, v in prepared.items() if isinstance(v, Tensor)}
        moved["views"] = [self._moved(view, self.memory_format) for view in prepared["views"]]
        return moved

    def _moved(self, value: Tensor, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
        if self.state.device.type == "cuda" and not value.is_cuda and not value.is_pinned():
            value = value.pin_memory()  # a copy from pageable memory would wait for the device
        return value.to(self.state.device, non_blocking=True, memory_format=memory_format)


def _loss_of(scalars: dict[str, Tensor], _: Any) -> Tensor:
    return scalars["loss"]


def _tell_repeats(loader: StepLoader) -> None:
    sampler = loader.step_sampler
    if sampler.batch_size > sampler.length and process_rank() == 0:
        logger.warning(
            "batch_size %d is larger than the data, %d slices: every batch holds some slices twice or more, which "
            "contrastive methods push apart as if they were different; give batch_size=%d or less, or more slices",
            sampler.batch_size,
            sampler.length,
            sampler.length,
        )


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """Split a batch (dict of tensors and lists of tensors, first axis B) into equal micro-batches.

    Raises:
        ConfigError: B is not a multiple of ``parts``.
    """
    if parts == 1:
        return [batch]
    size = len(batch["index"])
    if size % parts:
        raise ConfigError(f"batch_size {size} cannot be split into {parts} equal parts; make it a multiple")

    def piece(value: Any, i: int) -> Any:
        if isinstance(value, Tensor):
            return value.chunk(parts)[i]
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return [v.chunk(parts)[i] for v in value]
        return value

    return [{key: piece(value, i) for key, value in batch.items()} for i in range(parts)]
