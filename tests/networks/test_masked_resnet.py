"""The masked forward pass: what is hidden cannot be seen, and what is all visible is torchvision's own pass."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from medssl_monai.errors import ConfigError
from medssl_monai.networks.light_decoder import LightDecoder
from medssl_monai.networks.masked import masked_block, masked_features, visible_at
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder
from medssl_monai.networks.stochastic_depth import drop_path_rates, kept_branches

ARCHITECTURES = ["resnet18", "resnet50"]


def stages_of(encoder: ResNetEncoder, image: Tensor) -> list[Tensor]:
    x = encoder.maxpool(encoder.relu(encoder.bn1(encoder.conv1(image))))
    maps = []
    for stage in encoder.stages:
        x = stage(x)
        maps.append(x)
    return maps


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("training", [True, False])
def test_all_visible_is_the_dense_pass(arch: str, training: bool) -> None:
    torch.manual_seed(0)
    encoder = resnet_encoder(arch).double().train(training)
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    mask = torch.ones(2, 1, 2, 3, dtype=torch.bool)
    with torch.no_grad():
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        masked = masked_features(encoder, image, mask)
        after = {name: value.clone() for name, value in encoder.state_dict().items()}
        encoder.load_state_dict(before)
        dense = stages_of(encoder, image)
    torch.testing.assert_close(masked, dense)
    torch.testing.assert_close(after, encoder.state_dict())


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("training", [True, False])
def test_hidden_pixels_change_nothing_and_hidden_positions_are_zero(arch: str, training: bool) -> None:
    torch.manual_seed(0)
    encoder = resnet_encoder(arch).train(training)
    image = torch.randn(2, 1, 96, 64)
    mask = torch.rand(2, 1, 3, 2) < 0.5
    mask[:, :, 0] = True
    other = torch.where(visible_at(mask, 1, image.dtype).mask.bool(), image, torch.randn_like(image))
    with torch.no_grad():
        maps, others = masked_features(encoder, image, mask), masked_features(encoder, other, mask)
    for stride, first, second in zip((4, 8, 16, 32), maps, others, strict=True):
        assert torch.equal(first, second)
        hidden = ~visible_at(mask, stride, image.dtype).mask.bool()
        assert first.shape[2:] == hidden.shape[2:] == (96 // stride, 64 // stride)
        assert not first.masked_select(hidden.expand_as(first)).any()


def test_visible_positions_are_counted_at_every_stride() -> None:
    mask = torch.tensor([[[[True, False], [False, False]]], [[[True, True], [False, True]]]])
    for stride in (1, 2, 4, 8, 16, 32):
        visible = visible_at(mask, stride, torch.float32)
        assert visible.mask.sum() == visible.count == 4 * (32 // stride) ** 2


def test_drop_path_drops_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(20_000, 2, 1, 1)
    out = x * kept_branches(x.shape[0], 0.25, x)
    assert torch.equal(out[:, 0], out[:, 1]), "a sample is kept or dropped whole"
    assert sorted(set(out.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    rates = drop_path_rates(8, 0.7)
    assert rates[0] == 0 and rates[-1] == 0.7 and rates == sorted(rates) and len(rates) == 8


def test_dropped_blocks_pass_their_input_on_and_eval_drops_none() -> None:
    torch.manual_seed(0)
    encoder = resnet_encoder("resnet18")
    block = encoder.layer1[1]
    x = torch.randn(64, 64, 4, 4).relu()
    visible = visible_at(torch.ones(64, 1, 1, 1, dtype=torch.bool), 8, x.dtype)
    with torch.no_grad():
        same = (masked_block(block, x, visible, visible, 0.5) == x).flatten(1).all(1)
        assert 10 < int(same.sum()) < 54
        block.eval()
        kept = masked_block(block, x, visible, visible, 0.5)
        torch.testing.assert_close(kept, masked_block(block, x, visible, visible, 0.0))
        with pytest.raises(TypeError, match="must be torchvision's BasicBlock or Bottleneck"):
            masked_block(nn.Identity(), x, visible, visible, 0.0)


@pytest.mark.parametrize(("arch", "build"), [("resnet18", resnet18), ("resnet50", resnet50)])
def test_encoder_is_torchvision_s_without_fc(arch: str, build: type[nn.Module]) -> None:
    torch.manual_seed(0)
    encoder, network = resnet_encoder(arch).eval(), build().eval()
    missing, unexpected = network.load_state_dict(encoder.state_dict(), strict=False)
    assert missing == ["fc.weight", "fc.bias"] and not unexpected
    network.fc = nn.Identity()
    image = torch.randn(2, 1, 40, 48)
    with torch.no_grad():
        features = encoder(image)
        assert torch.equal(features, network(image.repeat(1, 3, 1, 1)))
    assert features.shape == (2, encoder.num_features)
    assert encoder.stage_channels[-1] == encoder.num_features


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("image_layout", [torch.contiguous_format, torch.channels_last])
def test_a_grey_image_is_three_equal_channels(layout: torch.memory_format, image_layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    encoder = resnet_encoder("resnet18").double().to(memory_format=layout)
    assert encoder.training  # in evaluation nothing is summed
    grey = torch.randn(2, 1, 40, 48, dtype=torch.float64).to(memory_format=image_layout)
    found = []
    for image in (grey, grey.repeat(1, 3, 1, 1)):
        image.requires_grad_()
        out = encoder.first_convolution(image)
        assert out.is_contiguous(memory_format=layout) or image_layout == torch.channels_last
        for_weight, for_image = torch.autograd.grad((out**2).sum(), (encoder.conv1.weight, image))
        found.append((out, for_weight, for_image.sum(1, keepdim=True)))
    for one, three in zip(*found, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-12, atol=1e-12)


def test_zero_init_residual_makes_every_block_the_identity() -> None:
    for arch, last in (("resnet18", "bn2"), ("resnet50", "bn3")):
        names = {
            name
            for name, value in resnet_encoder(arch, zero_init_residual=True).named_parameters()
            if name.endswith("weight") and not value.any()
        }
        blocks = [block for block in names if block.endswith(f"{last}.weight")]
        assert len(blocks) == len(names) == {"resnet18": 8, "resnet50": 16}[arch]
        assert all(value.any() for name, value in resnet_encoder(arch).named_parameters() if name.endswith("weight"))


def test_unknown_names_channels_and_widths_are_refused() -> None:
    with pytest.raises(ConfigError, match="found 'resnet101'; choose one of these"):
        resnet_encoder("resnet101")
    with pytest.raises(ValueError, match="found 2; give one window, or three windows as channels"):
        resnet_encoder("resnet18")(torch.zeros(1, 2, 32, 32))
    with pytest.raises(ValueError, match="multiple of 32, because it is halved five times, found 100; use 96"):
        LightDecoder(width=100)
