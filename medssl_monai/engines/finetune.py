"""Fine-tuning: MONAI's supervised trainer with exact resume and a freezing schedule."""

from typing import Any

import torch
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers.inferer import SimpleInferer

from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.precision import Bfloat16Inferer, check_bfloat16
from medssl_monai.engines.resumable import ResumableTrainer
from medssl_monai.engines.unfreezing import BackboneUnfreezing
from medssl_monai.networks.process_batch_norm import use_process_batch_norm
from medssl_monai.optimizers.kernels import choose_kernels
from medssl_monai.processes import average_gradients, process_count, process_mean


class FinetuneTrainer(ResumableTrainer, SupervisedTrainer):
    """A MONAI ``SupervisedTrainer`` that freezes and thaws by epoch, resumes exactly, and may use several processes.

    Args:
        device: device of the network.
        train_data_loader: gives batches with ``image`` (B, 3, H, W) and ``label`` (B,).
        unfreezing: sets the trained parameters and learning rates of each epoch; None leaves the optimizer as it is.
        epoch_length: steps an epoch; by default one pass over the data.
        amp: mixed precision: float16 on GPUs, bfloat16 on CPUs that have it (`cpu_has_bfloat16`).
        channels_last: memory format of the network's weights, which its images take on. By default it goes with `amp`;
            in float32 it makes the steps of a large network shorter and those of a small one longer
            (docs/performance.md).
        kwargs: the rest as in ``SupervisedTrainer`` (``network``, ``optimizer``, ``loss_function``, ``max_epochs``, …).

    Raises:
        ConfigError: `amp` on a CPU without bfloat16.
    """

    def __init__(
        self,
        device: str | torch.device,
        train_data_loader: StepLoader,
        unfreezing: BackboneUnfreezing | None = None,
        epoch_length: int | None = None,
        amp: bool = False,
        channels_last: bool | None = None,
        **kwargs: Any,
    ) -> None:
        device = torch.device(device)
        if amp:
            check_bfloat16(device)
        if amp and device.type == "cpu":
            kwargs["inferer"] = Bfloat16Inferer(kwargs.get("inferer") or SimpleInferer())
        if amp if channels_last is None else channels_last:
            kwargs["network"].to(memory_format=torch.channels_last)
        choose_kernels(kwargs["optimizer"], fused=True)  # CPUs have them too
        self.unfreezing = unfreezing
        if process_count() > 1:
            use_process_batch_norm(kwargs["network"])
        super().__init__(
            device=device,
            train_data_loader=train_data_loader,
            epoch_length=epoch_length or train_data_loader.steps_per_pass,
            amp=amp and device.type != "cpu",
            **kwargs,
        )
        self.add_event_handler(
            IterationEvents.BACKWARD_COMPLETED, lambda: average_gradients(kwargs["network"].parameters())
        )

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict[str, Any]:
        if self.unfreezing is not None:
            self.unfreezing.apply(self.optimizer, (self.state.iteration - 1) // self.state.epoch_length)
        output: dict[str, Any] = super()._iteration(engine, batchdata)
        output["loss"] = process_mean(output["loss"].detach())
        return output
