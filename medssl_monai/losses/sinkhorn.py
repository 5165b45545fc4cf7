"""Balanced soft assignment by Sinkhorn-Knopp (Cuturi 2013; SwAV, Caron et al. 2020, arXiv 2006.09882, equation 3).

Shapes: R rows (embeddings of a batch, and of a queue), K prototypes.
"""

import torch
from torch import Tensor

from medssl_monai.processes import process_cat


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, iterations: int = 3, across_processes: bool = False) -> Tensor:
    """Codes (R, K) of the scores (R, K): each row sums to 1, and the prototypes share the rows almost equally.

    exp(scores / epsilon) is scaled alternately so that prototypes, then rows, have equal mass. Rows come last and are
    exact; prototypes are approximate and improve with `iterations`. The computation uses logarithms, which neither
    overflow nor underflow for a small `epsilon`, in float32 at least. With `across_processes` the rows of all processes
    share the prototypes; each process gets the codes of its own rows. The number of rows may differ between processes.
    """
    log_codes = scores.to(torch.promote_types(scores.dtype, torch.float32)) / epsilon
    for _ in range(iterations):
        log_mass = log_codes.logsumexp(dim=0, keepdim=True)  # (1, K)
        if across_processes:
            log_mass = process_cat(log_mass).logsumexp(dim=0, keepdim=True)
        log_codes = log_codes - log_mass  # equal mass of each prototype
        log_codes = log_codes - log_codes.logsumexp(dim=1, keepdim=True)  # and of each row
    return log_codes.softmax(dim=1)
