"""Stochastic depth: residual branches are dropped for whole images (Huang et al. 2016, arXiv 1603.09382)."""

import torch
from torch import Tensor

from medssl_monai.processes import process_count, process_rank


def drop_path_rates(blocks: int, rate: float) -> list[float]:
    """Probability of dropping each of the residual blocks, growing linearly from 0 to `rate` (eq. 4)."""
    return [rate * index / max(blocks - 1, 1) for index in range(blocks)]


def kept_branches(images: int, rate: float, like: Tensor) -> Tensor:
    """Factors (B, 1, 1, 1) of B images' branches, of `like`'s type and device: 0 at `rate`, else 1 / (1 − rate).

    Several processes with equal generator states draw for the images of all of them and keep their own share, so the
    draw equals that of one process on the whole batch. Every process must have the same number of images.
    """
    keep = torch.empty((process_count() * images, 1, 1, 1), dtype=like.dtype, device=like.device)
    keep = keep.bernoulli_(1.0 - rate)[process_rank() * images :][:images]
    return keep / (1.0 - rate)
