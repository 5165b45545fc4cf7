"""One input channel spread over three and folded back: features stay the same."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from medssl_monai.checkpoints.first_convolution import fold_channels, spread_channels
from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.networks.resnet import resnet_encoder
from tests.checkpoints.test_import_formats import saved


def test_one_channel_is_spread_to_three_and_said(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = resnet_encoder("resnet18").eval()
    folded = {**encoder.state_dict(), "conv1.weight": fold_channels(encoder.conv1.weight.detach())}
    state, report = load_encoder(saved(tmp_path / "one.pt", folded))
    assert report.reshaped == ("conv1.weight (64, 1, 7, 7) to (64, 3, 7, 7)",)
    network = resnet_encoder("resnet18")
    network.load_state_dict(state)
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.eval()(image), encoder(image), rtol=1e-5, atol=1e-5)


@given(seed=st.integers(0, 2**31), out=st.integers(1, 5), kernel=st.sampled_from([1, 3, 7]))
def test_folding_is_the_sum_over_equal_channels(seed: int, out: int, kernel: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, 3, kernel, kernel, generator=generator, dtype=torch.float64)
    image = torch.randn(1, 1, 9, 9, generator=generator, dtype=torch.float64)
    expected = nn.functional.conv2d(image.expand(-1, 3, -1, -1), weight, padding=kernel // 2)
    for one in (fold_channels(weight), fold_channels(spread_channels(fold_channels(weight)))):
        torch.testing.assert_close(
            nn.functional.conv2d(image, one, padding=kernel // 2), expected, rtol=1e-12, atol=1e-12
        )


def test_only_channels_that_can_be_folded_are() -> None:
    with pytest.raises(ValueError, match="must have three channels, found"):
        fold_channels(torch.zeros(4, 1, 7, 7))
    with pytest.raises(ValueError, match="must have one channel, found"):
        spread_channels(torch.zeros(4, 3, 7, 7))
