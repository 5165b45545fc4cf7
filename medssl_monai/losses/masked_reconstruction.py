"""SparK's loss: mean squared error of masked patches, each normalised separately (arXiv 2301.03580, section 3.2).

Shapes: B images, C channels, H × W pixels, L = H/P · W/P patches of P × P pixels, N = P · P · C values a patch.
"""

import torch
from torch import Tensor

PATCH = 32
PATCH_VARIANCE_EPS = 1e-6


def patchify(image: Tensor, patch: int = PATCH) -> Tensor:
    """(B, C, H, W) to (B, L, N): patches row by row, values ordered row, column, channel."""
    batch, channels, height, width = image.shape
    rows, columns = height // patch, width // patch
    tiles = image.reshape(batch, channels, rows, patch, columns, patch)
    return tiles.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(patches: Tensor, rows: int, columns: int, patch: int = PATCH) -> Tensor:
    """Inverse of `patchify`: (B, rows · columns, N) to (B, C, rows · P, columns · P)."""
    batch = patches.shape[0]
    tiles = patches.reshape(batch, rows, columns, patch, patch, -1)
    return tiles.permute(0, 5, 1, 3, 2, 4).reshape(batch, -1, rows * patch, columns * patch)


def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and sqrt(unbiased variance + 1e-6) of each patch: (B, L, N) to (B, L, 1) twice."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True, correction=1)
    return mean, (variance + PATCH_VARIANCE_EPS).sqrt()


def masked_reconstruction_loss(prediction: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error between predicted and normalised patches, averaged over the batch's masked patches: ().

    `prediction` and `image` (B, C, H, W); `mask` (B, 1, H/32, W/32) bool, True = visible. Without
    masked patches the loss is 0.
    """
    target = patchify(image)
    mean, deviation = patch_statistics(target)
    error = patchify(prediction.to(target.dtype)) - (target - mean) / deviation
    per_patch = error.square().mean(dim=-1)  # (B, L)
    masked = mask.logical_not().flatten(1).to(per_patch.dtype)  # (B, L)
    return (per_patch * masked).sum() / masked.sum().clamp(min=1.0)
