"""Batch norm over visible positions only, zero elsewhere (SparK, arXiv 2301.03580, section 3.1).

Shapes: B images, C channels, H × W positions; a mask (B, 1, H, W) is 1 at visible positions and 0 elsewhere.

With several processes, a norm converted by `use_process_batch_norm` takes its statistics over all of them, with one
message forward and one backward.

No positions are gathered: masked positions are zero, so a sum over all positions is the sum over the visible ones. The
number of visible positions stays a tensor, so a step never waits for the device.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from medssl_monai.processes import process_cat


def masked_batch_norm(x: Tensor, mask: Tensor, count: Tensor, norm: _BatchNorm) -> Tensor:
    """Normalise x (B, C, H, W) at visible positions with the parameters and buffers of `norm`; zero elsewhere.

    In training mode the statistics are those of the batch's visible positions (biased variance to normalise, unbiased
    for `running_var`), and the buffers are updated as in `nn.BatchNorm2d`; in eval mode the buffers are used. Values of
    x at masked positions must be finite and have no effect. `count` () is the mask's sum. Half-precision input is
    normalised in float32 and returned in its own type.
    """
    mask = mask.to(x.dtype)
    mean, variance = norm.running_mean, norm.running_var
    if not norm.training:
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps) * mask
    exact = torch.promote_types(x.dtype, torch.float32)
    across: bool = getattr(norm, "across_processes", False)
    out, batch_mean, batch_variance, count = _MaskedBatchNorm.apply(
        x.to(exact), mask.to(exact), count.to(exact), norm.weight, norm.bias, norm.eps, across
    )
    if mean is not None and variance is not None and norm.num_batches_tracked is not None:
        with torch.no_grad():
            norm.num_batches_tracked.add_(1)
            # Without a momentum the buffers are plain averages over batches, as in torch.
            share = (1.0 / norm.num_batches_tracked).to(mean.dtype) if norm.momentum is None else norm.momentum
            unbiased = batch_variance * (count / (count - 1).clamp(min=1))
            mean.lerp_(batch_mean.to(mean.dtype), share)
            variance.lerp_(unbiased.to(variance.dtype), share)
    normalised: Tensor = out.to(x.dtype)
    return normalised


class _MaskedBatchNorm(torch.autograd.Function):
    """Forward in two passes, which avoids cancellation in the variance; backward in closed form, which halves the
    memory traffic of autograd."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, count: Tensor, weight: Tensor, bias: Tensor, eps: float, across: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean = _sum_of_positions(x * mask) / count.clamp(min=1)
        centred = (x - _channels(mean)).mul_(mask)
        squares = _sum_of_positions(centred.square())
        if across:
            own = mean
            count, mean, squares = _joined(count, mean, squares)
            centred.addcmul_(_channels(own - mean), mask)
        variance = squares / count
        inverse_deviation = torch.rsqrt(variance + eps)
        out = (centred * _channels(weight * inverse_deviation)).addcmul_(_channels(bias), mask)
        ctx.save_for_backward(centred, mask, count, weight, inverse_deviation)
        ctx.across = across
        total = count.clone()  # an autograd function must not return an input itself
        ctx.mark_non_differentiable(mean, variance, total)
        return out, mean, variance, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        centred, mask, count, weight, inverse_deviation = ctx.saved_tensors
        grad = grad * mask
        grad_bias = _sum_of_positions(grad)
        grad_weight = _sum_of_positions(grad * centred) * inverse_deviation
        # dx = w/σ · (g − mean(g) − x̂ · mean(g·x̂)) at visible positions, with x̂ = centred/σ.
        scale = weight * inverse_deviation
        # The means are over all processes. The parameters' gradients are this process's; they are averaged later.
        sums = torch.stack([grad_weight, grad_bias])
        total_weight, total_bias = process_cat(sums[None]).sum(0) if ctx.across else sums
        towards_centred = -scale * inverse_deviation * total_weight / count
        grad_x = grad.mul_(_channels(scale)).addcmul_(_channels(towards_centred), centred)
        grad_x = grad_x.addcmul_(_channels(-scale * total_bias / count), mask)
        return grad_x, None, None, grad_weight, grad_bias, None, None


def _sum_of_positions(x: Tensor) -> Tensor:
    # The only sum over positions, forward and backward; `count` is the same for the mask.
    return x.sum((0, 2, 3))


def _joined(count: Tensor, mean: Tensor, squares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count (), means (C,) and sums (C,) of squares about the mean, of all processes together, from those of each.

    Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
    """
    every = process_cat(torch.cat([count[None], mean, squares])[None])  # (processes, 1 + 2 C)
    counts, means, sums = torch.split(every, [1, len(mean), len(mean)], dim=1)
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    return count, mean, (sums + counts * (means - mean).square()).sum(0)


def _channels(values: Tensor) -> Tensor:
    return values[:, None, None]  # (C,) to (C, 1, 1)
