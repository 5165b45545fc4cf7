"""Batch norm over the batches of all processes, on any device.

N processes with an N-th of a batch each then compute what one process computes on the whole batch. On GPUs it is
torch's SyncBatchNorm, which does not run on CPUs; there it is SparK's masked batch norm with all positions visible.
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
    """`nn.BatchNorm1d` with the statistics of all processes' batches in training mode."""


class ProcessBatchNorm2d(_ProcessBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the statistics of all processes' batches in training mode."""


def use_process_batch_norm(network: nn.Module) -> None:
    """Convert every batch norm inside `network` to one over all processes, in place.

    Parameters, buffers and their names do not change, so optimizers and checkpoints still fit.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = ProcessBatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = ProcessBatchNorm2d
