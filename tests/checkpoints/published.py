"""The networks that Wolf et al. 2023 trained, and the files their trainers write, rebuilt from golden/'s manifests.

A network is put together from its description; its names and shapes are held to the manifest. A file has every entry
that the manifest lists, with values of the types it tells.
"""

import ast
import re
import types
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from medssl_monai.checkpoints.formats import Arm
from tests import golden

Forward = Callable[[Tensor], Tensor]
Encoders = dict[Arm, Forward]


@dataclass(frozen=True)
class Published:
    """A file, and by arm the encoders of the network it was saved from: images (B, 3, H, W) to features (B, 2048)."""

    path: Path
    encoders: Mapping[Arm, Forward]


def resnet50(num_classes: int = 0) -> nn.Module:
    """torchvision's, its batch norms as after some training; without ``fc`` for 0 classes."""
    network: nn.Module = torchvision.models.resnet50(num_classes=max(num_classes, 1))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            assert module.num_batches_tracked is not None
            nn.init.normal_(module.weight, 1.0, 0.1)
            nn.init.normal_(module.bias, 0.0, 0.1)
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.num_batches_tracked.fill_(7)
    if not num_classes:
        network.fc = nn.Identity()
    return network


def features(network: Any, image: Tensor) -> Tensor:
    """What a torchvision ResNet hands to ``fc``."""
    taken: list[Tensor] = []
    hook = network.avgpool.register_forward_hook(lambda _, __, output: taken.append(output.flatten(1)))
    network.eval()(image)
    hook.remove()
    return taken[0]


def mlp(sizes: tuple[int, int, int], first_bias: bool = True) -> nn.Sequential:
    layers = [nn.Linear(*sizes[:2], bias=first_bias), nn.BatchNorm1d(sizes[1]), nn.ReLU(), nn.Linear(*sizes[1:])]
    return nn.Sequential(*layers)


def swav() -> tuple[nn.Module, Encoders]:
    """SwAV pads by a layer of its own before a convolution that pads by 2."""
    model = resnet50()
    del model.fc
    model.padding = nn.ConstantPad2d(1, 0.0)
    model.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=2, bias=False)
    model.projection_head = mlp((2048, 2048, 128))
    model.prototypes = nn.Linear(128, 500, bias=False)

    def encode(image: Tensor) -> Tensor:
        model.eval()
        x = model.maxpool(model.relu(model.bn1(model.conv1(model.padding(image)))))  # type: ignore[operator]
        for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
            x = stage(x)  # type: ignore[operator]
        pooled: Tensor = x.mean((2, 3))
        return pooled

    return nn.ModuleDict({"model": model}), {"online": encode}


def moco(head: str = "linear") -> tuple[nn.Module, Encoders]:
    network = nn.Module()
    # Constant tensors are views of one number: the file stays small.
    for name in ("queue", "val_queue"):
        network.register_buffer(name, torch.zeros(()).expand(128, 65536))
        network.register_buffer(f"{name}_ptr", torch.zeros(1, dtype=torch.int64))
    network.encoder_q, network.encoder_k = resnet50(128), resnet50(128)
    if head == "mlp":
        for encoder in (network.encoder_q, network.encoder_k):
            encoder.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 128))
    query, key = network.encoder_q, network.encoder_k
    return network, {"query": lambda image: features(query, image), "key": lambda image: features(key, image)}


def byol() -> tuple[nn.Module, Encoders]:
    def arms() -> nn.Module:
        network = nn.Module()
        network.encoder = resnet50()
        for name, inputs in (("projector", 2048), ("predictor", 256)):
            part = nn.Module()
            part.model = mlp((inputs, 4096, 256), first_bias=False)
            for parameter in part.parameters():
                parameter.data = torch.zeros(()).expand(parameter.shape)
            setattr(network, name, part)
        return network

    online, target = arms(), arms()
    encoders: Encoders = {
        "online": lambda image: features(online.encoder, image),
        "target": lambda image: features(target.encoder, image),
    }
    return nn.ModuleDict({"online_network": online, "target_network": target}), encoders


def spark() -> tuple[nn.Module, Encoders]:
    """SparK's encoder: after each convolution and the max-pool the hidden positions are zeroed; here none is hidden."""
    network = resnet50()

    def encode(image: Tensor) -> Tensor:
        cells = torch.ones(image.shape[0], 1, image.shape[2] // 32, image.shape[3] // 32)

        def mask(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            scale = output.shape[2] // cells.shape[2]
            return output * cells.repeat_interleave(scale, 2).repeat_interleave(scale, 3)

        masked = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.MaxPool2d | nn.BatchNorm2d)]
        hooks = [module.register_forward_hook(mask) for module in masked]
        result: Tensor = network.eval()(image)
        for hook in hooks:
            hook.remove()
        return result

    return network, {"online": encode}


def lightning(manifest: str, network: nn.Module, **entries: object) -> dict[str, Any]:
    """A Lightning checkpoint of `network` with all entries of the manifest."""
    described = golden.load_json(manifest)
    state = network.state_dict()
    assert_names(described, state)
    structure = described["structure"]
    if "loops" in described["top_level_types"] and "loops" not in structure:
        structure = {**structure, "loops": golden.load_json("ckpt_swav")["structure"]["loops"]}
    content = {name: value_of(structure[name]) for name in described["top_level_types"] if name != "state_dict"}
    return {**content, "state_dict": state, **entries}


def assert_names(described: dict[str, Any], state: dict[str, Tensor]) -> None:
    found = {name: [list(value.shape), str(value.dtype).removeprefix("torch.")] for name, value in state.items()}
    assert found == described["state_dict"], "the rebuilt network has other names or shapes than the manifest"


def value_of(described: Any) -> Any:
    """A value of the type and with the content that a manifest tells, e.g. ``int: 3`` or ``Tensor[]:float32``."""
    if isinstance(described, dict):
        if "n_param_state_entries" in described:
            return {
                "state": {0: {"momentum_buffer": torch.zeros(3)}},
                "param_groups": value_of(described["param_groups"]),
            }
        return {name: value_of(value) for name, value in described.items()}
    if isinstance(described, list):
        return [value_of(value) for value in described]
    if not isinstance(described, str):
        return described
    if described.startswith("Tensor[]"):
        return torch.tensor(6.63)
    if match := re.fullmatch(r"list\[(\d+)\]", described):
        return list(range(int(match[1])))
    kind, colon, text = described.partition(": ")
    if colon and kind in {"int", "float", "bool", "str", "NoneType", "tuple", "list", "dict"}:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text
    return described


def named_class(full_name: str, bases: tuple[type, ...] = (dict,)) -> type:
    """An empty class that pickles under a name of a package which is not installed."""
    module, _, name = full_name.rpartition(".")
    return type(name, bases, {"__module__": module})


def fake_modules(*classes: type) -> dict[str, types.ModuleType]:
    """Modules in which pickle finds `classes` while it writes; to be put into sys.modules meanwhile."""
    modules: dict[str, types.ModuleType] = {}
    for cls in classes:
        parts = cls.__module__.split(".")
        for i in range(1, len(parts) + 1):
            name = ".".join(parts[:i])
            modules.setdefault(name, types.ModuleType(name))
        setattr(modules[cls.__module__], cls.__name__, cls)
    return modules


def hyper_parameters(values: dict[str, Any]) -> Namespace:
    return Namespace(**values, nested=Namespace(path=Path("somewhere"), betas=(0.9, 0.999)))
