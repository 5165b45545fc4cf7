"""Activation checkpointing changes memory and time, nothing else."""

import copy

import pytest
import torch
from torch import Tensor

from medssl_monai.methods.spark import SparK, draw_mask
from medssl_monai.networks.resnet import resnet_encoder


@pytest.mark.parametrize("packed", [True, False])
def test_spark_s_gradients_draws_and_statistics_stay(packed: bool) -> None:
    torch.manual_seed(0)
    plain = SparK("resnet18", decoder_width=32, image_channels=1, drop_path_rate=0.5, packed=packed).double()
    frugal = copy.deepcopy(plain)
    frugal.encoder.recompute = True
    batch = {"views": [torch.randn(4, 1, 64, 96, dtype=torch.float64)], "mask": draw_mask(4, 2, 3, 0.6)}
    after = []
    for model in (plain, frugal):
        torch.manual_seed(3)
        model(batch)["loss"].backward()
        after.append(torch.rand(1))
    assert torch.equal(*after), "the second pass must not move the generator"
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(plain.state_dict(), frugal.state_dict(), rtol=0, atol=0)


def test_an_encoder_s_too_and_it_keeps_less() -> None:
    torch.manual_seed(0)
    plain = resnet_encoder("resnet18")
    frugal = resnet_encoder("resnet18", recompute=True)
    frugal.load_state_dict(plain.state_dict())
    image = torch.randn(2, 1, 64, 64)
    held: list[list[int]] = []
    for encoder in (plain, frugal):
        sizes: list[int] = []

        def note(x: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            loss = encoder(image).square().sum()
        loss.backward()
        held.append(sizes)
    assert sum(held[1]) < sum(held[0]) / 2
    for one, other in zip(plain.parameters(), frugal.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(plain.state_dict(), frugal.state_dict(), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(frugal.eval()(image), plain.eval()(image))
