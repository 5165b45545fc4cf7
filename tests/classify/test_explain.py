"""Grad-CAM by its formula, and on a network whose only clue is known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from medssl_monai.classify.explain import Example, choose_examples, grad_cam
from medssl_monai.classify.heat_maps import draw_explanations
from medssl_monai.classify.predictions import Predictions


class Bright(nn.Module):
    """Class 1 is the mean of the brightness; `layer4` averages cells of 8² pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Conv2d(3, 2, 8, stride=8, bias=False)
        nn.init.constant_(self.layer4.weight, 1 / 192)
        self.fc = nn.Linear(2, 2, bias=False)
        self.fc.weight.data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.layer4(image).mean((2, 3)))
        return logits


def test_the_clue_is_found() -> None:
    view = torch.zeros(3, 64, 64)
    view[:, 16:24, 40:48] = 1
    heat = grad_cam(Bright(), view, 1)
    assert heat.shape == (64, 64)
    assert heat.max() == 1.0
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 16 <= row < 24
    assert 40 <= column < 48
    assert not grad_cam(Bright(), view, 0).any(), "nothing speaks for darkness"


def test_the_map_is_the_papers_formula() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3).eval()
    view = torch.randn(3, 64, 64)
    kept: dict[str, Tensor] = {}
    hook = network.layer4.register_forward_hook(lambda _m, _i, output: kept.update(maps=output))
    score = network(view[None])[0, 2]
    hook.remove()
    gradient = torch.autograd.grad(score, kept["maps"])[0]
    coarse = torch.relu((gradient.mean((2, 3), keepdim=True) * kept["maps"]).sum(1, keepdim=True))
    wanted = nn.functional.interpolate(coarse, (64, 64), mode="bilinear", align_corners=False)[0, 0].detach().numpy()
    assert np.allclose(grad_cam(network, view, 2), wanted / wanted.max(), atol=1e-4)


def test_frozen_encoders_are_explained_too() -> None:
    network = torchvision.models.resnet18(num_classes=2).requires_grad_(False)
    assert np.isfinite(grad_cam(network, torch.randn(3, 64, 64), 0)).all()


@pytest.fixture
def predictions() -> Predictions:
    found = Predictions(["a", "b"])
    for p, label in ((0.9, 0), (0.6, 0), (0.2, 0), (0.3, 1), (0.1, 1), (0.8, 1)):
        found.add(np.array([p, 1 - p]), "s", len(found.labels), "x", label)
    return found


def test_examples_are_the_surest(predictions: Predictions) -> None:
    found = choose_examples(predictions, 6)
    assert [(e.index, e.label, e.predicted) for e in found] == [(0, 0, 0), (4, 1, 1), (2, 0, 1), (5, 1, 0)]
    assert found[1].confidence == pytest.approx(0.9)
    assert choose_examples(predictions, 1) == found[:1]


def test_picture(predictions: Predictions, tmp_path: Path) -> None:
    dataset: Any = [{"image": torch.randn(3, 64, 64)} for _ in range(6)]
    network = torchvision.models.resnet18(num_classes=2)
    examples = [*choose_examples(predictions, 3), Example(5, 1, 0, 0.8)]
    draw_explanations(network, dataset, examples, ["a", "b"], tmp_path / "x.png", mean=0.25, std=0.25)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
