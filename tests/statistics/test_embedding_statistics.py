"""Statistics of embeddings against closed forms and limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.statistics.embeddings import alignment, effective_rank, embedding_std, uniformity


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_identical_embeddings_are_the_end() -> None:
    same = torch.ones(20, 8)
    assert embedding_std(same) == pytest.approx(0, abs=1e-12)
    assert effective_rank(same) == 1.0
    assert uniformity(same) == pytest.approx(0, abs=1e-12)
    assert alignment(same, same) == 0


def test_evenly_spread_embeddings() -> None:
    spread = normal(4000, 16)
    assert embedding_std(spread) == pytest.approx(1, abs=0.01)
    assert effective_rank(spread) > 15.9
    # For large D the squared distance of two random unit vectors is 2, hence exp(−4).
    assert uniformity(normal(400, 512)) == pytest.approx(-4, abs=0.05)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_rank_of_few_directions(rank: int) -> None:
    basis, _ = torch.linalg.qr(normal(32, rank))
    codes, _ = torch.linalg.qr(normal(200, rank, 1) - normal(200, rank, 1).mean(0))
    constant = 5 * torch.ones(32)
    assert effective_rank(codes @ basis.T + constant) == pytest.approx(rank, rel=1e-6)


def test_opposite_views() -> None:
    view = normal(10, 4)
    assert alignment(view, -view) == pytest.approx(4)
    assert alignment(view, 3 * view) == pytest.approx(0, abs=1e-12)


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 5))
def test_bounds_and_scale(n: int, d: int, seed: int) -> None:
    x = normal(n, d, seed)
    assert 1 <= effective_rank(x) <= min(n, d) + 1e-9
    assert effective_rank(7 * x) == pytest.approx(effective_rank(x))
    assert 0 <= embedding_std(x) <= 1 + 1e-9
    assert -8 - 1e-9 <= uniformity(x) <= 0
    assert math.isfinite(alignment(x, x.flip(0)))
