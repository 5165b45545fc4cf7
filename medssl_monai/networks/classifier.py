"""A torchvision ResNet with a new classification layer on a pre-trained encoder."""

import logging
from pathlib import Path

from torch import nn
from torchvision.models.resnet import ResNet

from medssl_monai.checkpoints.load import load_exactly, load_into_resnet
from medssl_monai.networks.resnet import torchvision_layout

logger = logging.getLogger(__name__)


def classifier(arch: str = "resnet50", num_classes: int = 2, encoder_weights: str | Path | None = None) -> ResNet:
    """Images (B, 3, H, W) to logits (B, num_classes), as `torchvision.models` builds it, so that it loads anywhere.

    `encoder_weights` is whatever `load_encoder` takes; they must cover the whole encoder, and the load report is
    logged. None (or an empty string) leaves torchvision's random initialisation. One-channel images are repeated
    before. Raises ConfigError for an unknown `arch`, CheckpointError where the weights do not fit.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes: at least 1, found {num_classes}; count the classes of the label table")
    network = ResNet(*torchvision_layout(arch), num_classes=num_classes)
    if encoder_weights:
        logger.info("%s", load_into_resnet(network, encoder_weights))
    return network


def load_classifier(network: nn.Module, path: str | Path) -> None:
    """Load a fine-tuned network's whole state dict, ``fc`` included; nothing is unpickled.

    `path` is a file such as RUN/models/model.pt, or the run's folder. Raises CheckpointError where it cannot be read,
    or any name or shape differs, e.g. by the number of classes.
    """
    load_exactly(network, path)
