"""Batch norm over visible positions only, zero elsewhere (SparK, arXiv 2301.03580, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["masked_batch_norm"]


def masked_batch_norm(x: Tensor, mask: Tensor, count: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    if not norm.training:
        return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps) * mask
    mean = (x * mask).sum((0, 2, 3)) / count
    centred = (x - mean[:, None, None]) * mask
    variance = centred.square().sum((0, 2, 3)) / count
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * (count / (count - 1)), norm.momentum)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return centred * scale[:, None, None] + norm.bias[:, None, None] * mask
