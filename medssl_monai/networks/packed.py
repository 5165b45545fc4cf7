"""The masked forward pass on visible cells only; hidden cells are neither stored nor computed.

The result equals `masked_features` up to rounding, for the visible share of its arithmetic and memory. A map is a
tensor of the visible cells (N, t, t, C), side t = 32 / stride. 1×1 convolutions are matrix products of its rows, batch
norm is the plain one, and 3×3 convolutions read a rim of neighbouring positions, zero where the neighbour is hidden.

Shapes: B images, C channels, grid of H/32 × W/32 cells, N visible cells of the batch, in the order of the mask.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torchvision.models.resnet import BasicBlock, Bottleneck

from medssl_monai.networks.masked import GRID_STRIDE, STAGE_STRIDES
from medssl_monai.networks.recompute import run_block
from medssl_monai.networks.resnet import ResNetEncoder, folded_weight
from medssl_monai.networks.stochastic_depth import drop_path_rates, kept_branches

SIDES = (16, *(GRID_STRIDE // stride for stride in STAGE_STRIDES))  # of a cell, after conv1 and in the four stages
SMALL = 2  # up to this side a 3×3 convolution is columns times a matrix; above, a convolution of tiles


class Cells:
    """The visible cells of a mask and their neighbours, as tables on the device of `index`, without a wait for it.

    Args:
        index: the mask's visible cells (N,), from `visible_index`.
        mask: (B, 1, rows, columns), of which only the shape is read.
    """

    def __init__(self, index: Tensor, mask: Tensor) -> None:
        device = index.device
        self.grid = (mask.shape[0], mask.shape[2], mask.shape[3])
        self.index = index
        self.count = len(index)
        self.image = self.index // (mask.shape[2] * mask.shape[3])  # (N,)
        # Number of each visible cell, N for hidden ones and beyond the border.
        number = torch.full((mask.numel(),), self.count, device=device)
        number[self.index] = torch.arange(self.count, device=device)
        self._number = F.pad(number.view(self.grid), (1, 1, 1, 1), value=self.count)  # (B, rows + 2, columns + 2)
        self.rims = {side: self._rim(side) for side in SIDES}

    def _rim(self, side: int) -> Tensor:
        """Row numbers (N, h, w) in a map (N · side², C) that make cells with a rim; N · side² means zero."""
        _, rows, columns = self.grid
        down, across = self.index // columns % rows, self.index % columns
        offset = torch.arange(-1, side + 1, device=self.index.device)
        cell, place = offset.div(side, rounding_mode="floor") + 1, offset % side
        y, x = down[:, None] + cell, across[:, None] + cell  # (N, side + 2), in the padded grid
        neighbour = self._number[self.image[:, None, None], y[:, :, None], x[:, None, :]]
        inside = neighbour * side**2 + place[:, None] * side + place
        return torch.where(neighbour == self.count, self.count * side**2, inside)


def visible_index(mask: Tensor) -> Tensor:
    """Numbers (N,) int64 of the visible cells among the B · rows · columns of a mask (B, 1, rows, columns) bool.

    N is a value of the mask: on a GPU this waits for the device, so call it on the host.
    """
    return mask.flatten().nonzero()[:, 0]


def packed_features(encoder: ResNetEncoder, image: Tensor, cells: Cells, drop_path_rate: float = 0.0) -> list[Tensor]:
    """The four stages' maps (N, t, t, C) of the visible cells, t = 8, 4, 2, 1; else as `masked_features`."""
    weight = folded_weight(encoder.conv1.weight) if image.shape[1] == 1 else encoder.conv1.weight
    x = _convolved(_image_tiles(image, cells), weight, stride=2)  # (N, 16, 16, 64)
    x = normalised_cells(encoder.bn1, x, encoder.relu)
    # After a ReLU, zeros beyond the cell never exceed the window's visible centre, so the maximum is right.
    x = _channels_first(_BeforeRim.apply(x, cells.rims[x.shape[1]][:, :-1, :-1]))
    x = F.max_pool2d(x, 3, stride=2).permute(0, 2, 3, 1)  # (N, 8, 8, 64)
    rates = iter(drop_path_rates(sum(map(len, encoder.stages)), drop_path_rate))
    maps = []
    function = encoder.compiled(packed_block)
    for stage in encoder.stages:
        for block in stage:
            # Drawn here, because a compiled block would draw other numbers.
            rate = next(rates)
            kept = kept_branches(cells.grid[0], rate, x) if rate > 0.0 and encoder.training else None
            x = run_block(encoder.recompute, block, function, block, x, cells, kept)
        maps.append(x)
    return maps


def packed_block(block: nn.Module, x: Tensor, cells: Cells, kept: Tensor | None = None) -> Tensor:
    """A torchvision residual block over visible cells (N, t, t, C); `kept` (B, 1, 1, 1) from `kept_branches`."""
    if not isinstance(block, (Bottleneck, BasicBlock)):
        raise TypeError(f"block: must be torchvision's BasicBlock or Bottleneck, found {type(block).__name__}")
    names = ("1", "2", "3") if isinstance(block, Bottleneck) else ("1", "2")
    out = x
    for name in names:
        relu = block.relu if name != names[-1] else None
        out = normalised_cells(getattr(block, f"bn{name}"), _conv(getattr(block, f"conv{name}"), out, cells), relu)
    if block.downsample is not None:
        x = normalised_cells(block.downsample[1], _conv(block.downsample[0], x, cells))
    if kept is not None:
        out = out * kept.index_select(0, cells.image)
    return cast(Tensor, block.relu(out + x))


def spread(x: Tensor, cells: Cells, fill: Tensor) -> Tensor:
    """A dense map (B, C, H, W) of visible cells (N, t, t, C), with `fill` (C,) at hidden positions."""
    batch, rows, columns = cells.grid
    side, channels = x.shape[1], x.shape[3]
    tiles = fill.to(x.dtype).expand(batch * rows * columns, side, side, channels).index_copy(0, cells.index, x)
    tiles = tiles.view(batch, rows, columns, side, side, channels).transpose(2, 3)
    return _channels_first(tiles.reshape(batch, rows * side, columns * side, channels))


def _conv(conv: nn.Conv2d, x: Tensor, cells: Cells) -> Tensor:
    """A 1×1 convolution, or a 3×3 one with padding 1, of stride 1 or 2."""
    weight = conv.weight
    if conv.kernel_size == (1, 1):
        return _product(x[:, :: conv.stride[0], :: conv.stride[1]], weight.flatten(1))
    if conv.stride == (2, 2):
        tiles = _BeforeRim.apply(x, cells.rims[x.shape[1]][:, :-1, :-1])  # (N, 2 t + 1, 2 t + 1, C)
        if tiles.shape[1] == 3:
            return _product(tiles.reshape(len(tiles), 1, 1, -1), _matrix(weight))
        return _convolved(tiles, weight, stride=2)
    if torch.is_autocast_enabled(x.device.type):
        x, weight = (t.to(torch.get_autocast_dtype(x.device.type)) for t in (x, weight))
    return cast(Tensor, _SameConvolution.apply(x, weight, cells.rims[x.shape[1]]))


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """Rows of cells (N, t, t, C) times a matrix (C', C) transposed: (N, t, t, C')."""
    if x.shape[1] == 1 or x.device.type != "cpu":
        return F.linear(x, matrix)
    # As a convolution: oneDNN's is up to twice as fast as torch's BLAS on AMD's CPUs.
    out = F.conv2d(_folded(x), matrix[:, :, None, None])
    return out.permute(0, 2, 3, 1).reshape(*x.shape[:3], -1)


def _folded(x: Tensor) -> Tensor:
    """Cells (N, t, t, C) as few long images (n, C, rows, 1), channels-last in memory."""
    cells = next(m for m in (4, 2, 1) if x.shape[0] % m == 0)
    return x.reshape(x.shape[0] // cells, -1, 1, x.shape[3]).permute(0, 3, 1, 2)


def _matrix(weight: Tensor) -> Tensor:
    """Weights (C', C, 3, 3) as a matrix (C', 9 C) for columns of 3 × 3 positions with their channels."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _convolved(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Tiles (N, h, w, C) to (N, h', w', C'), no padding."""
    return F.conv2d(_channels_first(x), weight, stride=stride).permute(0, 2, 3, 1)


def normalised_cells(norm: nn.Module, x: Tensor, activation: nn.Module | None = None) -> Tensor:
    """Cells (N, t, t, C) through a batch norm, all positions together, and an activation."""
    # One long image in channels-last order, which a CPU normalises fastest.
    rows = x.reshape(1, -1, 1, x.shape[3]).permute(0, 3, 1, 2)  # (1, C, N t t, 1)
    out: Tensor = norm(rows)
    # Before the view below: in place on the view, autograd would copy its base in the backward pass.
    out = out if activation is None else activation(out)
    return out.permute(0, 2, 3, 1).reshape(x.shape)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)  # (N, h, w, C) to (N, C, h, w), channels-last in memory


def _image_tiles(image: Tensor, cells: Cells) -> Tensor:
    """Visible cells (N, 37, 37, C) of an image with the surroundings that a 7×7 convolution of stride 2 reads."""
    batch, rows, columns = cells.grid
    visible = torch.zeros(batch * rows * columns, dtype=image.dtype, device=image.device).index_fill_(0, cells.index, 1)
    fine = visible.view(batch, 1, rows, columns).repeat_interleave(GRID_STRIDE, 2).repeat_interleave(GRID_STRIDE, 3)
    padded = F.pad(image * fine, (3, 2, 3, 2))
    windows = padded.unfold(2, 37, GRID_STRIDE).unfold(3, 37, GRID_STRIDE)  # (B, C, rows, columns, 37, 37)
    return windows.permute(0, 2, 3, 4, 5, 1).flatten(0, 2).index_select(0, cells.index)


def _with_rim(x: Tensor, table: Tensor) -> Tensor:
    """Cells (N, t, t, C) gathered by a table (N, h, w) of row numbers; N · t² gives zero."""
    rows = torch.cat([x.reshape(-1, x.shape[3]), x.new_zeros(1, x.shape[3])])
    return rows.index_select(0, table.reshape(-1)).view(*table.shape, -1)


def _same_convolution(x: Tensor, weight: Tensor, rim: Tensor) -> Tensor:
    side = x.shape[1]
    if side > SMALL:
        return _convolved(_with_rim(x, rim), weight, stride=1)
    return _product(_columns(x, rim), _matrix(weight))


def _columns(x: Tensor, rim: Tensor) -> Tensor:
    """Cells (N, t, t, C) to (N, t, t, 9 C), the inputs of a 3×3 convolution at each position."""
    return _with_rim(x, rim.unfold(1, 3, 1).unfold(2, 3, 1)).flatten(3)


class _SameConvolution(torch.autograd.Function):
    """A 3×3 convolution of stride 1. The gradient of x is the same kind of convolution, of the gradients at visible
    positions with mirrored weights, so neither pass computes hidden positions and only x is saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rim: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, rim)
        return _same_convolution(x, weight, rim)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rim = ctx.saved_tensors
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _same_convolution(grad, weight.flip(2, 3).transpose(0, 1), rim)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, weight, grad, rim)
        return grad_x, grad_weight, None


def _weight_gradient(x: Tensor, weight: Tensor, grad: Tensor, rim: Tensor) -> Tensor:
    side, (to, channels) = x.shape[1], weight.shape[:2]
    if side > SMALL:
        return _convolution_weight(_channels_first(grad), _channels_first(_with_rim(x, rim)), weight)
    columns = _columns(x, rim)
    if side == 1:
        matrix = grad.reshape(-1, to).T @ columns.reshape(-1, 9 * channels)
    else:
        matrix = _convolution_weight(_folded(grad), _folded(columns), _matrix(weight)[:, :, None, None])
    return matrix.reshape(to, 3, 3, channels).permute(0, 3, 1, 2)


def _convolution_weight(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    arguments = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    return cast(Tensor, torch.ops.aten.convolution_backward(grad, x, weight, *arguments)[1])


class _BeforeRim(torch.autograd.Function):
    """Cells (N, t, t, C) to (N, t + 1, t + 1, C): a rim above and to the left, for windows of 3 and stride 2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(table)
        return _with_rim(x, table)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (table,) = ctx.saved_tensors
        channels = grad.shape[3]
        own = torch.cat([grad[:, 1:, 1:].reshape(-1, channels), grad.new_zeros(1, channels)])
        # Three sums with distinct rows each, so that the order of additions is fixed.
        for rows, columns in ((slice(0, 1), slice(1, None)), (slice(1, None), slice(0, 1)), (slice(0, 1), slice(0, 1))):
            own.index_add_(0, table[:, rows, columns].reshape(-1), grad[:, rows, columns].reshape(-1, channels))
        side = grad.shape[1] - 1
        return own[:-1].view(-1, side, side, channels), None
