"""Batch norm over the batches of all processes, on any device.

With it, N processes on an N-th of a batch each compute what one computes on the whole. On GPUs it is torch's
SyncBatchNorm, which refuses CPUs; there it is SparK's masked batch norm with every position visible.
"""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from medssl_monai.networks.masked_batch_norm import masked_batch_norm
from medssl_monai.processes import process_count


class _ProcessBatchNorm(nn.SyncBatchNorm):
    across_processes = True  # read by masked_batch_norm
    process_group = None  # all of them

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (B, C), (B, C, L) or (B, C, H, W)."""
        if x.device.type != "cpu":
            return super().forward(x)
        if not self.training or process_count() == 1:
            return _BatchNorm.forward(self, x)
        positions = x if x.ndim == 4 else x.reshape(*x.shape[:2], -1, 1)
        count = torch.tensor(x.numel() / x.shape[1], device=x.device)
        return masked_batch_norm(positions, x.new_ones(1, 1, 1, 1), count, self).reshape(x.shape)


class ProcessBatchNorm1d(_ProcessBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` whose batch, in training mode, is that of all processes together."""


class ProcessBatchNorm2d(_ProcessBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose batch, in training mode, is that of all processes together."""


def use_process_batch_norm(network: nn.Module) -> None:
    """Turn every batch norm inside `network` into one over all processes, in place.

    Parameters, buffers and their names stay as they are, so that optimizers and checkpoints fit before and after.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = ProcessBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = ProcessBatchNorm2d
