"""SwAV's trainable prototypes (Caron et al. 2020, arXiv 2006.09882, section 3.1)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Prototypes(nn.Linear):
    """K vectors of D dimensions: embeddings (…, D) to their products with them (…, K)."""

    def __init__(self, dimensions: int, prototypes: int) -> None:
        super().__init__(dimensions, prototypes, bias=False)

    @torch.no_grad()
    def normalise(self) -> None:
        """Bring every prototype to unit length."""
        self.weight.copy_(F.normalize(self.weight, dim=1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Products (…, K); not under autocast, since Sinkhorn divides them by an epsilon of 0.05."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(embeddings.to(self.weight.dtype), self.weight)
