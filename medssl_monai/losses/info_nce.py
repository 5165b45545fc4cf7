"""InfoNCE against a queue of negatives (van den Oord et al. 2018; MoCo, He et al. 2020, arXiv 1911.05722, equation 1).

Shapes: B images, D dimensions, K negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce_logits(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, left_out: Tensor | None = None
) -> Tensor:
    """Logits (B, 1 + K): the product with the own key first, then those with the negatives, divided by `temperature`.

    `queries` and `keys` (B, D), `negatives` (K, D), all of unit length. Where `left_out` (B, K) bool is true, the logit
    is −inf: for this query the negative does not exist. Autocast is off: at a temperature of 0.07, rounding to bfloat16
    changes a logit by 0.05.
    """
    with torch.autocast(queries.device.type, enabled=False):
        positive = (queries * keys).sum(dim=1, keepdim=True)
        products = queries @ negatives.T
        if left_out is not None:
            products = products.masked_fill(left_out, -torch.inf)
        return torch.cat([positive, products], dim=1) / temperature


def info_nce_loss(logits: Tensor) -> Tensor:
    """Cross-entropy of the logits (B, 1 + K) with class 0, the own key, averaged over the batch: ()."""
    own = torch.zeros(logits.shape[0], dtype=torch.long, device=logits.device)
    return F.cross_entropy(logits, own)
