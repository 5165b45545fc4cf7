"""The small encoder of the reference's toy runs, and how to fill a method with its tensors."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from medssl_monai.networks.resnet import ResNetEncoder
from tests.golden import fill


class ToyEncoder(nn.Module):
    """One strided convolution, batch norm, ReLU, mean over positions: (B, 3, H, W) to (B, channels)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.num_features = channels
        self.conv1 = nn.Conv2d(3, channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.bn1(self.conv1(image)).relu().mean((2, 3))
        return features


def toy_encoder(channels: int) -> ResNetEncoder:
    """A `ToyEncoder`, which is all of a ResNet that the contrastive methods ask for."""
    return cast(ResNetEncoder, ToyEncoder(channels))


def fill_method(method: nn.Module, seed: int, reference_name: Callable[[str], str | None]) -> None:
    """Fill the tensors of `method` by the rule for the reference's names; None leaves one alone."""
    with torch.no_grad():
        for name, value in method.state_dict().items():
            theirs = reference_name(name)
            if theirs is not None:
                value.copy_(torch.from_numpy(fill.fill(theirs, tuple(value.shape), seed)))


def raw(name: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """The rule's standard normals."""
    return torch.from_numpy(fill.raw(name, shape, seed)).to(dtype)
