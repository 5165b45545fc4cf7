"""A torchvision ResNet with a new classification layer on a pre-trained encoder."""

import logging
from pathlib import Path

from torch import nn
from torchvision.models.resnet import ResNet

from medssl_monai.checkpoints.load import load_exactly, load_into_resnet
from medssl_monai.networks.resnet import torchvision_layout

logger = logging.getLogger(__name__)


def classifier(arch: str = "resnet50", num_classes: int = 2, encoder_weights: str | Path | None = None) -> ResNet:
    """torchvision's ResNet: images (B, 3, H, W) to logits (B, num_classes).

    `encoder_weights` is a file or run that `load_encoder` reads. It must hold the whole encoder; the load report is
    logged. None (or an empty string) keeps torchvision's random initialisation. Repeat one-channel images to three
    channels first. Raises ConfigError for an unknown `arch`, CheckpointError where the weights do not fit.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: must be at least 1, found {num_classes}; count the classes of the label table")
    network = ResNet(*torchvision_layout(arch), num_classes=num_classes)
    if encoder_weights:
        logger.info("%s", load_into_resnet(network, encoder_weights))
    return network


def load_classifier(network: nn.Module, path: str | Path) -> None:
    """Load a fine-tuned network's whole state dict, ``fc`` included; nothing is unpickled.

    `path` is a file such as RUN/models/model.pt, or the run's folder. Raises CheckpointError if it cannot be read, or
    if any name or shape differs, for instance by the number of classes.
    """
    load_exactly(network, path)
