"""Masked batch norm is torch's batch norm of the gathered visible positions, scattered back."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from medssl_monai.networks.masked_batch_norm import masked_batch_norm


def random_norm(channels: int, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).to(dtype)
    with torch.no_grad():
        for value in (norm.weight, norm.bias, norm.running_mean):
            value.normal_()  # type: ignore[union-attr]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    return norm


def gathered(x: Tensor, mask: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """The oracle: visible positions side by side in one row of pixels, through torch's own batch norm."""
    rows = x.permute(0, 2, 3, 1)[mask[:, 0]]  # (n, C)
    out = torch.zeros_like(x).permute(0, 2, 3, 1).clone()
    out[mask[:, 0]] = norm(rows.t()[None, :, None].contiguous())[0, :, 0].t()
    return out.permute(0, 3, 1, 2)


def random_case(seed: int, batch: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    mask = torch.rand(batch, 1, height, width) < 0.5
    mask.view(-1)[:2] = True  # two visible positions, as torch's own norm wants
    return torch.randn(batch, channels, height, width, dtype=torch.float64) * 3 + 1, mask


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 4),
    channels=st.integers(1, 5),
    height=st.integers(2, 6),
    width=st.integers(1, 6),
    momentum=st.sampled_from([0.1, 0.3, None]),
    training=st.booleans(),
)
def test_equals_the_norm_of_gathered_positions(
    seed: int, batch: int, channels: int, height: int, width: int, momentum: float | None, training: bool
) -> None:
    x, mask = random_case(seed, batch, channels, height, width)
    ours, theirs = random_norm(channels).train(training), nn.BatchNorm2d(channels).double().train(training)
    theirs.load_state_dict(ours.state_dict())
    ours.momentum = theirs.momentum = momentum
    weights = torch.randn_like(x)
    results = []
    for norm in (ours, theirs):
        leaf = x.clone().requires_grad_()
        out = masked_batch_norm(leaf, mask.double(), mask.sum(), norm) if norm is ours else gathered(leaf, mask, norm)
        assert not out[~mask.expand_as(x)].any()
        gradients = torch.autograd.grad((out * weights).sum(), (leaf, norm.weight, norm.bias))
        results.append([out, *gradients, *norm.buffers()])
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_gradients_are_right_by_finite_differences() -> None:
    x, mask = random_case(0, 2, 2, 3, 2)
    norm = random_norm(2)
    inputs = (x.requires_grad_(), norm.weight, norm.bias)

    def function(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return masked_batch_norm(x, mask.double(), mask.sum(), norm)

    assert torch.autograd.gradcheck(function, inputs)


def test_masked_positions_do_not_matter() -> None:
    x, mask = random_case(1, 2, 3, 4, 4)
    other = torch.where(mask, x, 1e6 * torch.randn_like(x))
    first, second = random_norm(3), nn.BatchNorm2d(3).double()
    second.load_state_dict(first.state_dict())
    out = masked_batch_norm(x, mask.double(), mask.sum(), first)
    assert torch.equal(out, masked_batch_norm(other, mask.double(), mask.sum(), second))
    assert torch.equal(first.running_mean, second.running_mean)  # type: ignore[arg-type]


def test_a_large_mean_does_not_cancel_the_variance() -> None:
    x, mask = random_case(2, 4, 3, 16, 16)
    far = (x + 1000).float()  # mean 1000, deviation 3: E[x²] − E[x]² would lose it all
    norm, exact = nn.BatchNorm2d(3), nn.BatchNorm2d(3).double()
    out = masked_batch_norm(far, mask.float(), mask.sum(), norm)
    wanted = masked_batch_norm(far.double(), mask.double(), mask.sum(), exact)
    torch.testing.assert_close(out.double(), wanted, rtol=0, atol=2e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_normalised_in_float32(dtype: torch.dtype) -> None:
    x, mask = random_case(3, 4, 3, 16, 16)
    x = (100 * x).to(dtype)
    norm = nn.BatchNorm2d(3)
    out = masked_batch_norm(x, mask.to(dtype), mask.sum(), norm)
    wanted = masked_batch_norm(x.double(), mask.double(), mask.sum(), nn.BatchNorm2d(3).double())
    assert out.dtype == dtype and norm.running_mean is not None and norm.running_mean.dtype == torch.float32
    torch.testing.assert_close(out.double(), wanted, rtol=1e-2, atol=1e-2)


def test_all_visible_is_torch_s_own_batch_norm_and_channels_last_stays() -> None:
    x, _ = random_case(4, 3, 4, 5, 6)
    x = x.contiguous(memory_format=torch.channels_last)
    ours, theirs = nn.BatchNorm2d(4).double(), nn.BatchNorm2d(4).double()
    out = masked_batch_norm(x, torch.ones(3, 1, 5, 6, dtype=torch.float64), torch.tensor(90), ours)
    torch.testing.assert_close(out, theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    x, mask = random_case(5, 2, 2, 3, 3)
    out = masked_batch_norm(x.requires_grad_(), mask.double(), mask.sum(), random_norm(2))
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.backward(gradient.sum())
