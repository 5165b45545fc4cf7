"""BYOL's loss (Grill et al. 2020, arXiv 2006.07733, equation 2), without its constant 2.

Shapes: B images, D dimensions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_prediction_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """−2 cos(prediction, target), averaged over the batch, in [−2, 2]: (). Both (B, D); no gradient to the target.

    It equals the squared distance of the two at unit length minus 2. A zero vector counts as orthogonal to all.
    """
    exact = torch.promote_types(prediction.dtype, torch.float32)
    return -2.0 * F.cosine_similarity(prediction.to(exact), target.detach().to(exact), dim=1).mean()
