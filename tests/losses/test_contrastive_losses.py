"""The contrastive losses against slow NumPy versions, closed forms and laws."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from medssl_monai.losses.cosine_prediction import cosine_prediction_loss
from medssl_monai.losses.info_nce import info_nce_logits, info_nce_loss
from medssl_monai.losses.sinkhorn import sinkhorn
from medssl_monai.losses.swapped_prediction import swapped_prediction_loss

Array = np.ndarray[Any, Any]


def slow_sinkhorn(scores: Array, epsilon: float, iterations: int) -> Array:
    """The paper's alternation, one number after another, in NumPy's longest float."""
    q = np.exp(scores.astype(np.longdouble) / epsilon)
    rows, prototypes = q.shape
    q /= q.sum()
    for _ in range(iterations):
        for k in range(prototypes):
            q[:, k] /= q[:, k].sum() * prototypes
        for r in range(rows):
            q[r] /= q[r].sum() * rows
    return np.asarray(q * rows, dtype=np.float64)


def unit(*shape: int, seed: int) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(values, dim=-1)


sizes = st.integers(1, 9)


@settings(deadline=None)
@given(sizes, st.integers(2, 9), st.sampled_from([0.03, 0.05, 0.3]), st.integers(1, 5), st.integers(0, 999))
def test_sinkhorn_is_the_slow_alternation(rows: int, k: int, epsilon: float, iterations: int, seed: int) -> None:
    scores = unit(rows, 4, seed=seed) @ unit(k, 4, seed=seed + 1).T
    found = sinkhorn(scores, epsilon, iterations)
    assert_allclose(found, slow_sinkhorn(scores.numpy(), epsilon, iterations), rtol=1e-9, atol=1e-15)


@settings(deadline=None, max_examples=30)
@given(sizes, st.integers(2, 9), st.integers(0, 999))
def test_sinkhorn_s_marginals(rows: int, k: int, seed: int) -> None:
    scores = torch.randn(rows, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert_allclose(sinkhorn(scores, 0.05, 3).sum(dim=1), 1.0, rtol=1e-12)  # rows hold after any number of iterations
    balanced = sinkhorn(scores, 1.0, 200)
    assert_allclose(balanced.sum(dim=0), rows / k, rtol=1e-6)  # prototypes in the limit
    # A constant on a prototype or on a row is taken away by the alternation.
    shifts = torch.randn(rows + k, 1, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    shifted = scores + shifts[rows:].T + shifts[:rows]
    # In the limit: a row's constant is only gone when prototypes and rows agree.
    assert_allclose(sinkhorn(shifted, 0.5, 1500), sinkhorn(scores, 0.5, 1500), atol=1e-6)


def test_sinkhorn_survives_where_exponentials_do_not() -> None:
    scores = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, 0.4]])
    codes = sinkhorn(scores, epsilon=0.005)  # exp(200) is no float32
    assert torch.isfinite(codes).all()
    assert_allclose(codes, slow_sinkhorn(scores.numpy(), 0.005, 3), atol=1e-4)
    half = sinkhorn(scores.to(torch.bfloat16))
    assert half.dtype == torch.float32


def test_identical_embeddings_get_uniform_codes() -> None:
    scores = torch.randn(1, 7).expand(5, 7)
    assert_allclose(sinkhorn(scores), np.full((5, 7), 1 / 7), atol=1e-6)


@given(st.integers(2, 5), st.integers(1, 4), st.integers(2, 6), st.integers(0, 999))
@settings(deadline=None)
def test_swapped_prediction_is_the_paper_s_double_sum(views: int, batch: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(views, batch, k, generator=generator, dtype=torch.float64)
    codes = [sinkhorn(scores[view], 0.5) for view in range(2)]
    terms = []
    for a in range(2):
        for v in range(views):
            for b in range(batch):
                if v != a:
                    s = scores[v, b].numpy() / 0.1
                    p = np.exp(s - s.max()) / np.exp(s - s.max()).sum()
                    terms.append(-sum(float(codes[a][b, i]) * math.log(p[i]) for i in range(k) if codes[a][b, i] > 0))
    assert swapped_prediction_loss(scores, codes, 0.1).item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)


def test_swapped_prediction_of_half_precision_scores_is_that_of_the_same_scores_in_float32() -> None:
    scores = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    codes = [torch.full((4, 50), 1 / 50), torch.eye(50)[:4]]
    found = swapped_prediction_loss(scores, codes, 0.1)
    assert found.dtype == torch.float32
    assert torch.equal(found, swapped_prediction_loss(scores.float(), codes, 0.1))


def test_swapped_prediction_needs_another_view() -> None:
    code = torch.full((2, 3), 1 / 3)
    with pytest.raises(ValueError, match="two large views first"):
        swapped_prediction_loss(torch.zeros(1, 2, 3), [code])
    with pytest.raises(ValueError, match="found 3 for 2"):
        swapped_prediction_loss(torch.zeros(2, 2, 3), [code] * 3)


@given(sizes, st.integers(1, 9), st.floats(0.05, 2.0), st.integers(0, 999))
@settings(deadline=None)
def test_info_nce_is_the_paper_s_equation(batch: int, negatives: int, temperature: float, seed: int) -> None:
    q, k, queue = unit(batch, 5, seed=seed), unit(batch, 5, seed=seed + 1), unit(negatives, 5, seed=seed + 2)
    left_out = torch.rand(batch, negatives, generator=torch.Generator().manual_seed(seed)) < 0.4
    for out in (None, left_out):
        losses = []
        for b in range(batch):
            own = math.exp(float(q[b] @ k[b]) / temperature)
            others = [
                math.exp(float(q[b] @ queue[n]) / temperature) for n in range(negatives) if out is None or not out[b, n]
            ]
            losses.append(-math.log(own / (own + sum(others))))
        loss = info_nce_loss(info_nce_logits(q, k, queue, temperature, out))
        assert loss.item() == pytest.approx(sum(losses) / batch, rel=1e-9, abs=1e-15)


def test_info_nce_s_limits() -> None:
    q = unit(4, 8, seed=0)
    same = q[:1]  # own key like all others: the logarithm of their number
    loss = info_nce_loss(info_nce_logits(q, same.expand(4, 8), same.expand(6, 8), 0.2))
    assert loss.item() == pytest.approx(math.log(7), rel=1e-9)
    orthogonal = torch.zeros(6, 8, dtype=torch.float64)
    assert info_nce_loss(info_nce_logits(q, q, orthogonal, 0.01)).item() == pytest.approx(0.0, abs=1e-12)


def test_info_nce_keeps_float32_under_autocast() -> None:
    q, k, queue = (unit(4, 8, seed=s).float() for s in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        logits = info_nce_logits(q, k, queue, 0.07)
    assert torch.equal(logits, info_nce_logits(q, k, queue, 0.07)) and logits.dtype == torch.float32


@given(sizes, st.integers(1, 6), st.integers(0, 999))
@settings(deadline=None)
def test_cosine_prediction_is_the_squared_distance_less_two(batch: int, d: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, t = (torch.randn(batch, d, generator=generator, dtype=torch.float64) + 0.1 for _ in range(2))
    p.requires_grad_()
    t.requires_grad_()
    loss = cosine_prediction_loss(p, t)
    normal = [x.detach() / x.detach().norm(dim=1, keepdim=True) for x in (p, t)]
    assert loss.item() == pytest.approx(float((normal[0] - normal[1]).square().sum(1).mean()) - 2, abs=1e-9)
    torch.autograd.backward(loss)
    assert t.grad is None and p.grad is not None
    # The loss knows directions only: no gradient along the prediction.
    assert_allclose((p.grad * p.detach()).sum(1), 0, atol=1e-9)
