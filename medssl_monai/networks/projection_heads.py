"""Heads between an encoder and a contrastive loss.

Shapes: B images, F features, H hidden units, D dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear_head(features: int, dimensions: int) -> nn.Linear:
    """(B, F) to (B, D): the head of MoCo's first version (arXiv 1911.05722, section 3.3)."""
    return nn.Linear(features, dimensions)


def moco_mlp(features: int, dimensions: int) -> nn.Sequential:
    """(B, F) to (B, D) through F hidden units, without batch norm (MoCo v2, arXiv 2003.04297, section 2)."""
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(inplace=True), nn.Linear(features, dimensions))


def swav_projector(features: int, hidden: int, dimensions: int) -> nn.Sequential:
    """(B, F) to (B, D) through H hidden units with batch norm (SwAV, arXiv 2006.09882, appendix A)."""
    return nn.Sequential(
        nn.Linear(features, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, dimensions)
    )


def byol_mlp(features: int, hidden: int, dimensions: int) -> nn.Sequential:
    """(B, F) to (B, D): projector and predictor of BYOL (arXiv 2006.07733, section 3.3).

    The first layer has no bias, which the batch norm after it would cancel.
    """
    return nn.Sequential(
        nn.Linear(features, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(inplace=True),
        nn.Linear(hidden, dimensions),
    )


def unit_length(x: Tensor) -> Tensor:
    """Rows (B, D) scaled to unit length, in float32 at least."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)
