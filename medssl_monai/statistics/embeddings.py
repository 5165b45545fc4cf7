"""How much information a set of embeddings holds, without labels: spread, rank, alignment, uniformity, neighbours.

Shapes: N embeddings of D dimensions, Q views of an image.
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
    return _exp_entropy(values)


def _exp_entropy(values: Tensor) -> float:
    """Exponential of the entropy of non-negative values as shares of their sum."""
    share = values / values.sum()
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))


def lidar(views: Tensor, delta: float = 1e-4) -> float:
    """Effective rank of what tells images apart beside what tells views of one image apart, in [1, min(N - 1, D)].

    Thilak et al. 2024 (arXiv 2312.04000, section 4): linear discriminant analysis with each image as a class, Σ_b of
    the classes' means and Σ_w of the views about them; the exponential of the entropy of the eigenvalues of
    Σ_w^(-1/2) Σ_b Σ_w^(-1/2), normalised. The paper takes 1,000 images and 50 views. With N (Q - 1) < D views, Σ_w has
    directions without any variance, where `delta` alone decides. Images without a difference have rank 1.

    Args:
        views: (N, Q, D), two or more of each.
        delta: added to the diagonal of Σ_w.
    """
    x = views.double()
    means = x.mean(dim=1)
    within = (x - means[:, None]).flatten(0, 1)
    between = means - means.mean(dim=0)
    if float(between.abs().max()) <= 1e-9 * max(1.0, float(x.abs().max())):
        return 1.0
    scatter = within.T @ within / len(within) + delta * torch.eye(x.shape[2], dtype=x.dtype)
    whitened = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), between.T, upper=False)
    return _exp_entropy(torch.linalg.svdvals(whitened).square())


def nearest_in_group(embeddings: Tensor, groups: Tensor) -> float | None:
    """Share of embeddings with a nearest neighbour (by cosine) of their own group, in [0, 1].

    Args:
        embeddings: (N, D).
        groups: (N,) int; an embedding that is alone in its group is a neighbour, but is not counted.

    Returns:
        None where every group has one member.
    """
    same = groups[:, None] == groups[None, :]
    counted = same.sum(dim=1) > 1
    if not bool(counted.any()):
        return None
    nearest = _cosines(embeddings).fill_diagonal_(-math.inf).argmax(dim=1)
    return float((groups[nearest] == groups)[counted].double().mean())


def neighbour_r2(embeddings: Tensor, values: Tensor, groups: Tensor, neighbours: int = 5) -> float | None:
    """How well the nearest embeddings of other groups predict a value: the coefficient of determination, at most 1.

    The prediction is the mean of the `neighbours` nearest by cosine. 0 is as good as the mean of all, below 0 is worse.

    Args:
        embeddings: (N, D).
        values: (N,) float, to be predicted.
        groups: (N,) int, such as patients.
        neighbours: how many; fewer where the other groups hold fewer.

    Returns:
        None where there is one group, or where all values are the same.
    """
    other = groups[:, None] != groups[None, :]
    available = int(other.sum(dim=1).min())
    truth = values.double()
    spread = (truth - truth.mean()).square().sum()
    if available == 0 or float(spread) == 0:
        return None
    cosines = _cosines(embeddings).masked_fill(~other, -math.inf)
    nearest = cosines.topk(min(neighbours, available), dim=1).indices
    return float(1 - (truth - truth[nearest].mean(dim=1)).square().sum() / spread)


def _cosines(embeddings: Tensor) -> Tensor:
    unit = F.normalize(embeddings.double(), dim=1)
    return unit @ unit.T


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
