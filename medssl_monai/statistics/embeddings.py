"""How much information a set of embeddings holds: spread, rank, alignment, uniformity.

Shapes: N embeddings of D dimensions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding_std(embeddings: Tensor) -> float:
    """Standard deviation of unit embeddings over the images, mean over dimensions, times sqrt(D).

    1 where the embeddings spread evenly over the sphere, 0 where all are the same (Chen and He 2021, arXiv 2011.10566,
    section 4.1).
    """
    unit = F.normalize(embeddings.double(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * math.sqrt(unit.shape[1]))


def effective_rank(embeddings: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of the centred embeddings, in [1, min(N, D)].

    Roy and Vetterli 2007, as RankMe (Garrido et al. 2023, arXiv 2210.02885) uses it; centred, so that one constant
    direction, the commonest collapse, does not count. Identical embeddings have rank 1.
    """
    centred = embeddings.double() - embeddings.double().mean(dim=0)
    values = torch.linalg.svdvals(centred)
    if float(values[0]) <= 1e-9 * max(1.0, float(embeddings.abs().max())):
        return 1.0
    share = values / values.sum()
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of two views' unit embeddings (N, D), in [0, 4]; 0 where the views have no influence.

    Wang and Isola 2020, arXiv 2005.10242, equation 5 with α = 2.
    """
    difference = F.normalize(first.double(), dim=1) - F.normalize(second.double(), dim=1)
    return float(difference.square().sum(dim=1).mean())


def uniformity(embeddings: Tensor) -> float:
    """Log of the mean Gaussian potential of all pairs of unit embeddings; 0 where all are the same, below it else.

    Wang and Isola 2020, arXiv 2005.10242, equation 6 with t = 2.
    """
    distances = torch.pdist(F.normalize(embeddings.double(), dim=1))
    return float(distances.square().mul(-2).exp().mean().log())
