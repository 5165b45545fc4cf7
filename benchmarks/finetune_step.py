"""The train step of fine-tuning in both memory formats of the weights, in one run, A B A B.

    python benchmarks/finetune_step.py [--device cuda --batch 64] [--arch resnet50 --size 224 --amp 0 1]

It is `FinetuneTrainer`'s own step: forward, backward and Adam on images that are already on the device.
"""

from collections.abc import Callable
from typing import Any

import torch
from measure import arguments, compare, ratio, show, start
from torch import nn

from medssl_monai.engines.finetune import FinetuneTrainer
from medssl_monai.engines.loader import StepLoader
from medssl_monai.networks.classifier import classifier


def step_of(arch: str, batch: int, size: int, device: str, amp: bool, channels_last: bool) -> Callable[[], Any]:
    """One step of a new trainer on random images (batch, 3, size, size) of two classes."""
    torch.manual_seed(0)
    network = classifier(arch, num_classes=2).to(device).train()
    images = {
        "image": torch.randn(batch, 3, size, size, device=device),
        "label": torch.arange(batch, device=device) % 2,
    }
    trainer = FinetuneTrainer(
        device,
        StepLoader([images], 1, 0),  # type: ignore[arg-type]  # never asked: the step is given its batch
        amp=amp,
        channels_last=channels_last,
        max_epochs=1,
        network=network,
        optimizer=torch.optim.Adam(network.parameters()),
        loss_function=nn.CrossEntropyLoss(),
        decollate=False,
    )
    return lambda: trainer._iteration(trainer, images)


def main() -> None:
    """Measure and print."""
    parser = arguments(__doc__ or "", batch=16, size=224, arch="resnet50", rounds=7, amp=[0, 1])
    options = parser.parse_args()
    start(options.device, options.threads)
    for amp in options.amp:
        print(f"{options.arch}, {options.size} px, batch {options.batch}, amp {bool(amp)}")
        made = (options.arch, options.batch, options.size, options.device, bool(amp))
        seconds = compare(
            {name: step_of(*made, name == "channels_last") for name in ("contiguous", "channels_last")},
            options.rounds,
            options.device,
            warm_up=2,
        )
        show(seconds)
        ratio(seconds, "contiguous", "channels_last")


if __name__ == "__main__":
    main()
