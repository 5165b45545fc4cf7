"""SwAV's loss: predict the code of one view from another (Caron et al. 2020, arXiv 2006.09882, equations 1 and 2).

Shapes: V views, A of them with codes, B images, K prototypes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def swapped_prediction_loss(scores: Tensor, codes: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Cross-entropy of every view's prediction with the codes of every other view that has one, averaged: ().

    `scores` (V, B, K) are products of embeddings and prototypes. `codes` are A tensors (B, K) with rows that sum to 1,
    for the first A views. The computation is in float32 at least. Raises ValueError if there are more codes than views,
    or only one view.
    """
    views = scores.shape[0]
    if not 0 < len(codes) <= views or views < 2:
        raise ValueError(
            f"codes: for at least one and at most all of two or more views, found {len(codes)} for {views}; "
            f"give two large views first, then the small ones"
        )
    exact = scores.to(torch.promote_types(scores.dtype, torch.float32))
    log_predictions = (exact / temperature).log_softmax(dim=2)
    losses = []
    for view, code in enumerate(codes):
        cross_entropy = -(code * log_predictions).sum(dim=2).mean(dim=1)  # (V,)
        losses.append((cross_entropy.sum() - cross_entropy[view]) / (views - 1))
    return torch.stack(losses).mean()
