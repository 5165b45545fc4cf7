"""The pass over visible cells alone against the pass under a mask, which the golden numbers hold."""

import copy

import pytest
import torch
from torch import nn

from medssl_monai.methods.spark import SparK, draw_mask
from medssl_monai.networks.masked import masked_features
from medssl_monai.networks.packed import Cells, packed_block, packed_features, spread, visible_index
from medssl_monai.networks.resnet import resnet_encoder


def some_mask() -> torch.Tensor:
    """Different numbers of visible cells in each image, one image with all and one with none."""
    mask = torch.rand(4, 1, 3, 2, generator=torch.Generator().manual_seed(2)) < 0.5
    mask[1], mask[2] = True, False
    return mask


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("channels", "training", "drop"), [(1, True, 0.3), (3, True, 0.0), (1, False, 0.0)])
def test_packed_is_masked(arch: str, channels: int, training: bool, drop: float) -> None:
    """In float64: maps, gradients and running statistics, random draws included."""
    torch.manual_seed(0)
    masked = resnet_encoder(arch).double().train(training)
    for name, parameter in masked.named_parameters():
        if "bn" in name:
            nn.init.normal_(parameter)
    packed = copy.deepcopy(masked)
    image, mask = torch.randn(4, channels, 96, 64, dtype=torch.float64), some_mask()
    torch.manual_seed(1)
    wanted = masked_features(masked, image, mask, drop)
    torch.manual_seed(1)
    cells = Cells(visible_index(mask), mask)
    tiles = packed_features(packed, image, cells, drop)
    maps = [spread(x, cells, x.new_zeros(x.shape[3])) for x in tiles]
    torch.testing.assert_close(maps, wanted)
    weights = [torch.randn_like(x) for x in wanted]
    for network, result in ((masked, wanted), (packed, maps)):
        torch.autograd.backward([(x * w).sum() for x, w in zip(result, weights, strict=True)])
        assert network.conv1.weight.grad is not None
    for one, other in zip(masked.parameters(), packed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(packed.state_dict(), masked.state_dict())


def test_spark_is_the_same_either_way() -> None:
    torch.manual_seed(0)
    models = [SparK("resnet18", decoder_width=32, image_channels=1, packed=False).double()]
    models.append(copy.deepcopy(models[0]))
    models[1].packed = True
    batch = {"views": [torch.randn(3, 1, 64, 96, dtype=torch.float64)], "mask": draw_mask(3, 2, 3, 0.6)}
    losses = [model(batch)["loss"] for model in models]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-7, atol=1e-10)


def test_rims_hold_the_neighbours() -> None:
    """Against a dense map of row numbers, padded and cut."""
    mask = some_mask()
    cells, side = Cells(visible_index(mask), mask), 4
    numbers = torch.arange(1, cells.count * side**2 + 1).view(-1, side, side, 1).float()
    dense = spread(numbers, cells, torch.zeros(1))
    windows = nn.functional.pad(dense, (1, 1, 1, 1)).unfold(2, side + 2, side).unfold(3, side + 2, side)
    wanted = windows[:, 0].flatten(0, 2)[mask.flatten()].long() - 1
    found = cells.rims[side]
    assert torch.equal(torch.where(found == cells.count * side**2, -1, found), wanted)


def test_other_blocks_are_refused() -> None:
    cells = Cells(torch.zeros(1, dtype=torch.long), torch.ones(1, 1, 1, 1, dtype=torch.bool))
    with pytest.raises(TypeError, match="must be torchvision's BasicBlock or Bottleneck"):
        packed_block(nn.Identity(), torch.zeros(1, 2, 2, 1), cells)
