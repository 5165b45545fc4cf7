"""The peers of the train step: lightly's parts put together as its examples do, and SparK as the literature writes it.

Each gives a step: a function that runs zero_grad, forward, backward, optimizer and momentum update once. Optimizers are
ours, so that methods are compared.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchvision
from lightly.loss import NegativeCosineSimilarity, NTXentLoss, SwaVLoss
from lightly.models.modules.heads import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    MoCoProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor, nn

from medssl_monai.losses.masked_reconstruction import masked_reconstruction_loss
from medssl_monai.methods.spark import SparK
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, swav_lars

Step = Callable[[], Any]


class _Online(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(torchvision.models.resnet50().children())[:-1])
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x).flatten(start_dim=1))


def _stepper(network: nn.Module, optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor], amp: bool) -> Step:
    device = next(network.parameters()).device.type

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = loss_of()
        loss.backward()
        optimizer.step()

    return step


def moco(views: Sequence[Tensor], layout: torch.memory_format, amp: bool) -> Step:
    """MoCo v2 with a memory bank of 4096."""
    online = _Online(MoCoProjectionHead(2048, 2048, 128)).to(views[0].device, memory_format=layout)
    momentum = copy.deepcopy(online)
    deactivate_requires_grad(momentum)
    criterion = NTXentLoss(temperature=0.2, memory_bank_size=(4096, 128)).to(views[0].device)

    def loss_of() -> Tensor:
        update_momentum(online, momentum, m=0.999)
        query = online(views[0])
        key = momentum(views[1]).detach()
        return criterion(query, key)

    return _stepper(online, moco_sgd(online, lr=0.006), loss_of, amp)


def byol(views: Sequence[Tensor], layout: torch.memory_format, amp: bool) -> Step:
    """BYOL with a momentum of 0.99."""
    online = _Online(BYOLProjectionHead(2048, 4096, 256)).to(views[0].device, memory_format=layout)
    predictor = BYOLPredictionHead(256, 4096, 256).to(views[0].device)
    momentum = copy.deepcopy(online)
    deactivate_requires_grad(momentum)
    criterion = NegativeCosineSimilarity()

    def loss_of() -> Tensor:
        update_momentum(online, momentum, m=0.99)
        predictions = [predictor(online(view)) for view in views]
        targets = [momentum(view).detach() for view in views]
        return 0.5 * (criterion(predictions[0], targets[1]) + criterion(predictions[1], targets[0]))

    return _stepper(online, byol_adam(nn.ModuleList([online, predictor]), lr=1e-3), loss_of, amp)


def swav(views: Sequence[Tensor], layout: torch.memory_format, amp: bool) -> Step:
    """SwAV without a queue, 500 prototypes, one pass of the backbone a crop."""
    online = _Online(SwaVProjectionHead(2048, 2048, 128)).to(views[0].device, memory_format=layout)
    prototypes = SwaVPrototypes(128, n_prototypes=500).to(views[0].device)
    criterion = SwaVLoss()

    def loss_of() -> Tensor:
        prototypes.normalize()
        scores = [prototypes(nn.functional.normalize(online(view), dim=1)) for view in views]
        return criterion(scores[:2], scores[2:])

    return _stepper(online, swav_lars(nn.ModuleList([online, prototypes]), lr=0.1), loss_of, amp)


class GatherNorm(nn.BatchNorm1d):
    """Batch norm of the visible positions, gathered and scattered back (SparK, arXiv 2301.03580, section 3.1)."""

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        """x (B, C, H, W); `active` (B, 1, H, W) bool."""
        where = active.squeeze(1).nonzero(as_tuple=True)
        last = x.permute(0, 2, 3, 1)
        out = torch.zeros_like(last)
        out[where] = super().forward(last[where]).to(out.dtype)
        return out.permute(0, 3, 1, 2)


class GatherSparK(nn.Module):
    """SparK by dense convolutions, each multiplied by the mask, and `GatherNorm`; weights as of a `SparK`."""

    def __init__(self, model: SparK) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        for module in list(self.model.modules()):
            if isinstance(module, nn.BatchNorm2d) and not any(module is m for m in self.model.decoder.modules()):
                module.__class__ = GatherNorm

    def encode(self, image: Tensor, mask: Tensor) -> list[Tensor]:
        """The four stages' maps."""
        encoder = self.model.encoder
        x = image * self._active(mask, image)
        x = encoder.relu(self._conv_norm(encoder.conv1, encoder.bn1, x.expand(-1, 3, -1, -1), mask))
        x = encoder.maxpool(x)
        x = x * self._active(mask, x)
        maps = []
        for stage in encoder.stages:
            for block in stage:
                out = block.relu(self._conv_norm(block.conv1, block.bn1, x, mask))
                out = block.relu(self._conv_norm(block.conv2, block.bn2, out, mask))
                out = self._conv_norm(block.conv3, block.bn3, out, mask)
                x = x if block.downsample is None else self._conv_norm(*block.downsample, x, mask)
                x = block.relu(out + x)
            maps.append(x)
        return maps

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """The loss."""
        dense = []
        for x, densify in zip(reversed(self.encode(image, mask)), self.model.densify, strict=True):
            active = self._active(mask, x).expand_as(x)
            normed = densify.norm(x, active[:, :1])
            dense.append(densify.projection(torch.where(active, normed, densify.mask_token.to(normed.dtype))))
        return masked_reconstruction_loss(self.model.decoder(dense), image, mask)

    @staticmethod
    def _active(mask: Tensor, x: Tensor) -> Tensor:
        factor = x.shape[2] // mask.shape[2]
        return mask.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    def _conv_norm(self, conv: nn.Module, norm: nn.Module, x: Tensor, mask: Tensor) -> Tensor:
        x = conv(x)
        active = self._active(mask, x)
        return norm(x * active, active)
