"""Masked forward pass of a ResNet: convolutions that see visible patches only (SparK, arXiv 2301.03580, section 3.1).

Shapes: B images, C channels, H × W positions at the stride at hand, grid = H/32 × W/32 cells of the input.
A mask is True (or 1) where a position is visible. It is always an argument, never a global, so that one network can
serve several threads, be copied and pickled, and use activation checkpointing.
"""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from medssl_monai.networks.masked_batch_norm import masked_batch_norm
from medssl_monai.networks.recompute import run_block
from medssl_monai.networks.resnet import ResNetEncoder
from medssl_monai.networks.stochastic_depth import drop_path_rates, kept_branches

GRID_STRIDE = 32  # pixels along an edge of a masked cell: the stride of a ResNet's last stage
STAGE_STRIDES = (4, 8, 16, 32)


@dataclass(frozen=True)
class Visible:
    """Visible positions at one stride: `mask` (B, 1, H, W) of 0 and 1, and their number `count` ()."""

    mask: Tensor
    count: Tensor


def visible_at(mask: Tensor, stride: int, dtype: torch.dtype) -> Visible:
    """Upsample the grid's mask (B, 1, H/32, W/32) to the positions of `stride` (a divisor of 32)."""
    scale = GRID_STRIDE // stride
    fine = mask.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    return Visible(fine.to(dtype), mask.sum() * scale**2)


def masked_features(encoder: ResNetEncoder, image: Tensor, mask: Tensor, drop_path_rate: float = 0.0) -> list[Tensor]:
    """The four stages' maps of the visible patches, strides 4, 8, 16, 32; zero at masked positions.

    Image (B, 1|3, H, W) with H and W multiples of 32; mask (B, 1, H/32, W/32) bool, True = visible.
    Maps are (B, C, H/stride, W/stride), the finest first.
    """
    # Visible pixels, half-resolution positions after conv1, then the four stages'.
    full, half, *stages = (visible_at(mask, stride, image.dtype) for stride in (1, 2, *STAGE_STRIDES))
    x = encoder.first_convolution(image * full.mask)
    x = encoder.relu(masked_batch_norm(x, half.mask, half.count, encoder.bn1))
    x = encoder.maxpool(x) * stages[0].mask

    rates = iter(drop_path_rates(sum(map(len, encoder.stages)), drop_path_rate))
    maps = []
    before = stages[0]
    for stage, visible in zip(encoder.stages, stages, strict=True):
        for block in stage:
            x = run_block(encoder.recompute, block, masked_block, block, x, before, visible, next(rates))
            before = visible
        maps.append(x)
    return maps


def masked_block(block: nn.Module, x: Tensor, before: Visible, after: Visible, drop_rate: float) -> Tensor:
    """A torchvision residual block over visible positions; `before` and `after` are its input's and output's."""
    if isinstance(block, Bottleneck):
        out = _masked_conv_bn(block.conv1, block.bn1, x, before)
        out = _masked_conv_bn(block.conv2, block.bn2, block.relu(out), after)  # torchvision strides here
        out = _masked_conv_bn(block.conv3, block.bn3, block.relu(out), after)
    elif isinstance(block, BasicBlock):
        out = _masked_conv_bn(block.conv1, block.bn1, x, after)
        out = _masked_conv_bn(block.conv2, block.bn2, block.relu(out), after)
    else:
        raise TypeError(f"block: must be torchvision's BasicBlock or Bottleneck, found {type(block).__name__}")
    if block.downsample is not None:
        x = _masked_conv_bn(block.downsample[0], block.downsample[1], x, after)
    if drop_rate > 0.0 and block.training:
        out = out * kept_branches(out.shape[0], drop_rate, out)
    return cast(Tensor, block.relu(out + x))


def _masked_conv_bn(conv: nn.Module, norm: nn.BatchNorm2d, x: Tensor, visible: Visible) -> Tensor:
    # The norm ignores masked positions and sets them to zero, so the convolution's output needs no mask.
    return masked_batch_norm(conv(x), visible.mask, visible.count, norm)
