"""Fill the masked positions of a sparse map before decoding (SparK, arXiv 2301.03580, section 3.2)."""

import torch
from torch import Tensor, nn

from medssl_monai.networks.masked import Visible
from medssl_monai.networks.masked_batch_norm import masked_batch_norm
from medssl_monai.networks.packed import Cells, normalised_cells, spread


class Densify(nn.Module):
    """Batch norm over visible positions, a learned mask token at the others, a convolution to the decoder's width.

    Maps (B, in_channels, H, W) to (B, out_channels, H, W). The token starts as a normal of standard deviation 0.02
    truncated at one standard deviation; the convolution has a bias and torch's own initialisation.
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
        """The same from visible cells alone, (N, t, t, in_channels)."""
        dense: Tensor = self.projection(spread(normalised_cells(self.norm, x), cells, self.mask_token.flatten()))
        return dense
