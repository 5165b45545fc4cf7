"""Freezing and thawing against the reference's documented schedule."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from medssl_monai.engines.unfreezing import BackboneUnfreezing
from tests.golden import fill

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def test_rates_are_the_documented_ones() -> None:
    meta, arrays = fill.load(GOLDEN / "sched_backbone_finetuning.npz")
    network = torchvision.models.resnet18(num_classes=2)
    unfreezing = BackboneUnfreezing(network, meta["lr"], meta["unfreeze_backbone_at_epoch"])
    optimizer = torch.optim.Adam(unfreezing.parameter_groups(), lr=meta["lr"])
    for epoch in range(meta["epochs"]):
        unfreezing.apply(optimizer, epoch)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        wanted = np.nan_to_num(arrays["documented_conv_lr"][epoch])
        assert rates["backbone"] == pytest.approx(wanted, rel=1e-9)
        assert rates["head"] == pytest.approx(arrays["documented_head_lr"][epoch], rel=1e-9)
        assert network.conv1.weight.requires_grad == arrays["documented_conv_requires_grad"][epoch]
        assert network.bn1.weight.requires_grad == arrays["documented_bn_requires_grad"][epoch]


def test_every_parameter_is_in_one_group() -> None:
    network = torchvision.models.resnet50(num_classes=3)
    for train_batch_norm in (True, False):
        unfreezing = BackboneUnfreezing(network, 1e-4, train_batch_norm=train_batch_norm)
        grouped = [p for group in unfreezing.parameter_groups() for p in group["params"]]
        assert len(grouped) == len(list(network.parameters()))
        assert {id(p) for p in grouped} == {id(p) for p in network.parameters()}
    assert len(unfreezing.head) == 2


def test_without_a_frozen_phase_everything_trains_at_once() -> None:
    network = torchvision.models.resnet18(num_classes=2)
    assert BackboneUnfreezing(network, 1e-3, frozen_epochs=0).backbone_rate(0) == 1e-3


def test_frozen_weights_do_not_move() -> None:
    network = torchvision.models.resnet18(num_classes=2)
    unfreezing = BackboneUnfreezing(network, 1e-2, frozen_epochs=1)
    optimizer = torch.optim.Adam(unfreezing.parameter_groups(), lr=1e-2, weight_decay=0.1)
    before = network.conv1.weight.clone()
    for epoch in (0, 1):
        unfreezing.apply(optimizer, epoch)
        optimizer.zero_grad()
        network(torch.rand(2, 3, 32, 32)).sum().backward()
        optimizer.step()
        assert torch.equal(network.conv1.weight, before) == (epoch == 0)
