"""Statistics of embeddings against closed forms and limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.statistics.embeddings import (
    alignment,
    effective_rank,
    embedding_std,
    lidar,
    nearest_in_group,
    neighbour_r2,
    uniformity,
)


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_identical_embeddings_are_the_end() -> None:
    same = torch.ones(20, 8)
    assert embedding_std(same) == pytest.approx(0, abs=1e-12)
    assert effective_rank(same) == 1.0
    assert uniformity(same) == pytest.approx(0, abs=1e-12)
    assert alignment(same, same) == 0
    assert lidar(same[:, None].repeat(1, 3, 1)) == 1.0


def test_evenly_spread_embeddings() -> None:
    spread = normal(4000, 16)
    assert embedding_std(spread) == pytest.approx(1, abs=0.01)
    assert effective_rank(spread) > 15.9
    # For large D the squared distance of two random unit vectors is 2, so the kernel is exp(−4).
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


@given(st.integers(3, 10), st.integers(2, 8), st.integers(0, 5))
def test_a_rotation_changes_nothing(n: int, d: int, seed: int) -> None:
    x, views = normal(n, d, seed), normal(n * 3, d, seed + 1).reshape(n, 3, d)
    turn, _ = torch.linalg.qr(normal(d, d, seed + 2))
    groups, values = torch.arange(n) % 2, torch.arange(n)
    assert effective_rank(x @ turn) == pytest.approx(effective_rank(x))
    assert uniformity(x @ turn) == pytest.approx(uniformity(x))
    assert alignment(x @ turn, x.flip(0) @ turn) == pytest.approx(alignment(x, x.flip(0)))
    assert 1 <= lidar(views) <= min(n - 1, d) + 1e-9
    assert lidar(views @ turn) == pytest.approx(lidar(views))
    assert nearest_in_group(x @ turn, groups) == nearest_in_group(x, groups)
    assert neighbour_r2(x @ turn, values, groups) == pytest.approx(neighbour_r2(x, values, groups))


def test_lidar_counts_the_directions_that_tell_images_apart() -> None:
    """Images differ along four axes; views differ evenly along all, then along one of the four far more."""
    codes, _ = torch.linalg.qr(normal(60, 4) - normal(60, 4).mean(0))
    images = 20 * codes @ torch.eye(4, 16, dtype=torch.float64)
    noise = normal(60 * 50, 16, 1).reshape(60, 50, 16)
    noise -= noise.mean(dim=1, keepdim=True)
    assert lidar(images[:, None] + noise) == pytest.approx(4, abs=0.05)
    noise[..., 0] *= 100
    assert lidar(images[:, None] + noise) == pytest.approx(3, abs=0.05)


def test_lidar_is_the_paper_s_formula() -> None:
    views = normal(12, 5 * 6).reshape(12, 5, 6)
    means = views.mean(dim=1)
    within = torch.cov((views - means[:, None]).reshape(-1, 6).T, correction=0) + 1e-4 * torch.eye(6)
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    share = torch.linalg.eigvalsh(root @ torch.cov(means.T, correction=0) @ root)
    share = share / share.sum()
    assert lidar(views) == pytest.approx(float(torch.exp(-(share * share.log()).sum())))


def test_neighbours() -> None:
    groups = torch.arange(20) // 2
    apart = torch.eye(10, dtype=torch.float64)[groups] + 0.1 * normal(20, 10)
    assert nearest_in_group(apart, groups) == 1
    assert nearest_in_group(apart, torch.arange(20)) is None
    # Two groups on one arc: the value is the angle, so that the other group's neighbours tell it.
    angle = torch.linspace(0, 1, 40, dtype=torch.float64)
    arc, group = torch.stack([angle.cos(), angle.sin()], dim=1), torch.arange(40) % 2
    found = neighbour_r2(arc, angle, group, neighbours=2)
    assert found is not None and found > 0.99
    assert neighbour_r2(arc, angle, torch.zeros(40)) is None
    assert neighbour_r2(arc, torch.ones(40), group) is None
    unrelated = neighbour_r2(normal(40, 2), angle, group)
    assert unrelated is not None and unrelated < 0.5
