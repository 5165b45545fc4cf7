"""The freezing schedule of Wolf et al. 2023: a frozen encoder first, then a smaller learning rate that rises."""

from typing import Any, Literal

import torch
from torch import nn

from medssl_monai.errors import ConfigError

Schedule = Literal["documented", "executed"]
STAGES = ("layer1", "layer2", "layer3", "layer4")


class BackboneUnfreezing:
    """Freezes a network's convolutions for some epochs, then trains them with a rate that rises to the head's rate.

    Epoch e (from 0) trains the convolutions at 0 for e < ``frozen_epochs``, then at
    ``learning_rate * min(1, first_ratio * growth ** (e - frozen_epochs))``; head and batch norm are always trained. It
    is a closed form of the epoch, so a resumed run needs no state.

    This is the ``documented`` schedule. The reference's code does something else (``executed``): its optimizer already
    holds the encoder, so the callback meant for the encoder's rate sets the rate of all parameters. Head, batch norm
    and, from ``frozen_epochs`` on, convolutions train with ``learning_rate`` up to and including that epoch, and with
    ``learning_rate * min(1, first_ratio * growth)``, a fifth of it, from then on.

    Args:
        network: a torchvision ResNet with ``fc``.
        learning_rate: the head's rate.
        frozen_epochs: epochs before the convolutions are trained; 0 trains everything from the start.
        first_ratio: ratio of the convolutions' first rate to the head's.
        growth: factor per epoch.
        train_batch_norm: train scale and shift of batch norms while the convolutions are frozen, as in the reference;
            otherwise they are thawed with the convolutions.
        layer_decay: factor on the convolutions' rate for each stage further from the head: ``layer4`` has the
            factor itself, ``layer1`` its fourth power, the stem its fifth (Clark et al. 2020, arXiv 2003.10555,
            appendix B); 1 gives all stages the same rate.
        schedule: ``documented`` or ``executed``.

    Raises:
        ConfigError: the schedule is unknown, or the decay is outside (0, 1].
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float,
        frozen_epochs: int = 10,
        first_ratio: float = 0.1,
        growth: float = 2.0,
        train_batch_norm: bool = True,
        layer_decay: float = 1.0,
        schedule: Schedule = "documented",
    ) -> None:
        if schedule not in ("documented", "executed"):
            raise ConfigError(f"schedule: must be documented or executed, found {schedule!r}; choose one of them")
        if not 0 < layer_decay <= 1:
            raise ConfigError(
                f"layer_decay: must be above 0 and at most 1, found {layer_decay}; give for instance 0.75"
            )
        self.learning_rate, self.frozen_epochs = learning_rate, frozen_epochs
        self.first_ratio, self.growth = first_ratio, growth
        self.layer_decay, self.schedule = layer_decay, schedule
        head, norms, rest = _sort_parameters(network)
        self.head = list((head | norms if train_batch_norm else head).values())
        self._named = rest if train_batch_norm else rest | norms
        self.backbone = list(self._named.values())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for an optimizer: parameters that always train, and thawed ones, by stage if rates differ."""
        groups: list[dict[str, Any]] = [{"params": self.head, "name": "head", "scale": 1.0}]
        if self.layer_decay == 1:
            return [*groups, {"params": self.backbone, "name": "backbone", "scale": 1.0}]
        for depth, stage in enumerate(("stem", *STAGES)):
            members = [p for name, p in self._named.items() if _stage(name) == stage]
            groups.append({"params": members, "name": "backbone", "scale": self.layer_decay ** (5 - depth)})
        return groups

    def backbone_rate(self, epoch: int) -> float:
        """Learning rate of the convolutions in ``epoch`` (from 0), before any decay by stage."""
        if epoch < self.frozen_epochs:
            return 0.0
        if self.schedule == "executed":
            return self.head_rate(epoch)
        if self.frozen_epochs == 0:
            return self.learning_rate
        # The exponent is capped: after 64 epochs of growth the minimum applies, and a float would overflow.
        ratio = self.first_ratio * self.growth ** min(epoch - self.frozen_epochs, 64)
        return self.learning_rate * min(1.0, ratio)

    def head_rate(self, epoch: int) -> float:
        """Learning rate of the head and of batch norm in ``epoch`` (from 0)."""
        if self.schedule == "executed" and epoch > self.frozen_epochs:
            return self.learning_rate * min(1.0, self.first_ratio * self.growth)
        return self.learning_rate

    def apply(self, optimizer: torch.optim.Optimizer, epoch: int) -> None:
        """Freeze or thaw, and write the rates of ``epoch`` into the optimizer's groups."""
        thawed = epoch >= self.frozen_epochs
        for parameter in self.backbone:
            parameter.requires_grad_(thawed)
            if not thawed:
                parameter.grad = None
        rates = {"head": self.head_rate(epoch), "backbone": self.backbone_rate(epoch)}
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]] * group.get("scale", 1.0)


def _stage(name: str) -> str:
    """``layer1`` to ``layer4``, or ``stem``."""
    return next((stage for stage in STAGES if name.startswith(f"{stage}.")), "stem")


def _sort_parameters(
    network: nn.Module,
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Parameters of the head (``fc``), of batch norms, and the rest, each once, by name."""
    norms = {id(p) for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()}
    head: dict[str, nn.Parameter] = {}
    batch_norm: dict[str, nn.Parameter] = {}
    rest: dict[str, nn.Parameter] = {}
    for name, parameter in network.named_parameters():
        side = head if name.startswith("fc.") else batch_norm if id(parameter) in norms else rest
        side[name] = parameter
    return head, batch_norm, rest
