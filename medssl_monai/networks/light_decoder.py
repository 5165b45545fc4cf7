"""SparK's decoder: masked positions are filled, then maps are decoded to pixels (arXiv 2301.03580, section 3.2).

Shapes: B images, D decoder width, H × W pixels of the image.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from medssl_monai.networks.compiled import PartlyCompiled, output_of
from medssl_monai.networks.masked import Visible
from medssl_monai.networks.masked_batch_norm import masked_batch_norm
from medssl_monai.networks.packed import Cells, normalised_cells, spread

STAGES = 5  # from stride 32 to stride 1


class Densify(nn.Module):
    """Batch norm over visible positions, a learned mask token at the others, a convolution to the decoder's width.

    Maps (B, in_channels, H, W) to (B, out_channels, H, W). The token is initialised from a normal distribution with
    standard deviation 0.02, truncated at one standard deviation. The convolution has a bias and torch's initialisation.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.mask_token = nn.Parameter(torch.empty(1, in_channels, 1, 1))
        self.projection = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)

    def forward(self, x: Tensor, visible: Visible) -> Tensor:
        """Map (B, in_channels, H, W), zero at masked positions, to a dense map (B, out_channels, H, W)."""
        x = masked_batch_norm(x, visible.mask, visible.count, self.norm)
        x = torch.where(visible.mask.bool(), x, self.mask_token.to(x.dtype))
        dense: Tensor = self.projection(x)
        return dense

    def from_cells(self, x: Tensor, cells: Cells) -> Tensor:
        """The same from packed visible cells (N, t, t, in_channels)."""
        dense: Tensor = self.projection(spread(normalised_cells(self.norm, x), cells, self.mask_token.flatten()))
        return dense


class LightDecoder(PartlyCompiled, nn.Module):
    """Five upsampling stages and a 1×1 projection.

    Stage i first adds its densified map (i < 4), then doubles the resolution and halves the width. Convolutions are
    initialised from a normal distribution with standard deviation 0.02, transposed ones by He's normal initialisation
    (fan out). Raises ValueError if `width` is not a multiple of 32.
    """

    def __init__(self, width: int = 768, out_channels: int = 3) -> None:
        super().__init__()
        if width < 1 or width % 2**STAGES:
            raise ValueError(
                f"decoder width: must be a multiple of {2**STAGES}, because it is halved five times, found {width}; "
                f"use {max(1, round(width / 2**STAGES)) * 2**STAGES}"
            )
        self.width = width
        self.stages = nn.ModuleList(UpsampleStage(width // 2**i, width // 2 ** (i + 1)) for i in range(STAGES))
        self.projection = nn.Conv2d(width // 2**STAGES, out_channels, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, (nn.ConvTranspose2d, nn.Conv2d)) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, the smallest first, (B, D / 2^i, H / 2^(5−i), W / 2^(5−i)), to an image (B, out, H, W)."""
        x: Tensor | None = None
        function = self.compiled(output_of)
        for index, stage in enumerate(self.stages):
            if index < len(maps):
                x = maps[index] if x is None else x + maps[index]
            x = function(stage, cast(Tensor, x))
        image: Tensor = self.projection(x)
        return image


class UpsampleStage(nn.Module):
    """Transposed convolution 4/2/1, then conv 3×3, BN, ReLU6, conv 3×3, BN: (B, C, H, W) to (B, C', 2H, 2W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose2d(in_channels, in_channels, kernel_size=4, stride=2, padding=1)
        self.conv1 = nn.Conv2d(in_channels, in_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Double the resolution."""
        x = self.activation(self.norm1(self.conv1(self.upsample(x))))
        out: Tensor = self.norm2(self.conv2(x))
        return out
