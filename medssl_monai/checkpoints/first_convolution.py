"""The first convolution for images of one channel.

A CT slice under one window is the same image in all three channels, so the three kernels act as their sum:
``conv(w, [x, x, x]) = conv(w₁ + w₂ + w₃, x)``. Shapes: weight (out, channels, kernel, kernel).
"""

import torch
from torch import Tensor


def fold_channels(weight: Tensor) -> Tensor:
    """(out, 3, k, k) to (out, 1, k, k): the same features from one channel as from three equal ones.

    The sum is computed in float64 and rounded once.
    """
    if weight.ndim != 4 or weight.shape[1] != 3:
        raise ValueError(f"conv1.weight: must have three channels, found {tuple(weight.shape)}; export it unfolded")
    return weight.sum(dim=1, keepdim=True, dtype=torch.float64).to(weight.dtype)


def spread_channels(weight: Tensor) -> Tensor:
    """(out, 1, k, k) to (out, 3, k, k): the same features from three equal channels as from one, up to rounding."""
    if weight.ndim != 4 or weight.shape[1] != 1:
        raise ValueError(f"conv1.weight: must have one channel, found {tuple(weight.shape)}; give it as it is")
    return (weight / 3).expand(-1, 3, -1, -1)
