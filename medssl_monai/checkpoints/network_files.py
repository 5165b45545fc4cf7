"""The file formats of an exported network: how each is written, and how it is read back.

Shapes: image (B, C, H, W) float32, normalised, C = 3 (1 with a folded first convolution); result (B, F) features, or
(B, K) logits where the network has an ``fc``.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from medssl_monai.atomic import write_bytes
from medssl_monai.checkpoints.files import read_weights, safetensors_bytes
from medssl_monai.checkpoints.hub_folder import read_hub_folder, write_hub_folder
from medssl_monai.checkpoints.manifests import architecture_of
from medssl_monai.checkpoints.onnx_file import run_onnx, write_onnx

Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class NetworkFile:
    """One format of a network's file.

    Attributes:
        title: the format in words.
        suffixes: those that a file may have.
        code: lines of Python that load a file into ``network``, see `loading_code`.
        write: takes the network in evaluation mode, the path and the header's strings.
        read: returns the function that a file computes, read as its users read it.
    """

    title: str
    suffixes: tuple[str, ...]
    code: tuple[str, ...]
    write: Callable[[nn.Module, Path, Mapping[str, str]], None]
    read: Callable[[Path], Forward]


def build(arch: str, state: Mapping[str, Tensor]) -> nn.Module:
    """torchvision's ResNet that fits `state`: with one or three input channels, with ``fc`` if it is there."""
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else 1
    network: nn.Module = getattr(torchvision.models, arch)(num_classes=classes)
    if state["conv1.weight"].shape[1] == 1:
        network.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    if "fc.weight" not in state:
        network.fc = nn.Identity()
    network.load_state_dict(dict(state))
    return network.eval()


def _write_safetensors(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    write_bytes(path, safetensors_bytes(network.state_dict(), metadata))


def _write_state_dict(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    # Through memory: torch names the archive's folder after the file, which is a temporary one.
    content = BytesIO()
    torch.save(_state(network), content)
    write_bytes(path, content.getbuffer())


def _write_timm(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    write = _write_safetensors if path.suffix == ".safetensors" else _write_state_dict
    write(network, path, metadata)


def _write_torchscript(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    # MONAI looks for metadata.json among the extra files.
    with _without_deprecation():
        script = torch.jit.script(network)
        content = BytesIO()
        torch.jit.save(script, content, _extra_files={"metadata.json": json.dumps(dict(metadata)).encode()})
    write_bytes(path, content.getbuffer())


def _read_state_dict(path: Path) -> Forward:
    state, _ = read_weights(path)
    return build(_arch(state), state)


def _read_timm(path: Path) -> Forward:
    import timm  # takes seconds, and only this format needs it

    state, _ = read_weights(path)
    classes = state["fc.weight"].shape[0] if "fc.weight" in state else 0
    network: nn.Module = timm.create_model(
        _arch(state),
        pretrained=False,
        num_classes=classes,
        in_chans=state["conv1.weight"].shape[1],
        checkpoint_path=str(path),
    )
    return network.eval()


def _read_torchscript(path: Path) -> Forward:
    with _without_deprecation():
        script: Any = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
    network: Forward = script.eval()
    return network


_BUILD = ("network = torchvision.models.{arch}(num_classes={classes})", "{changes}")
NETWORK_FILES: dict[str, NetworkFile] = {
    "safetensors": NetworkFile(
        "safetensors",
        (".safetensors",),
        (
            "import torch, torchvision",
            "from safetensors.torch import load_file",
            *_BUILD,
            'network.eval().load_state_dict(load_file("{file}"))',
        ),
        _write_safetensors,
        _read_state_dict,
    ),
    "torchvision": NetworkFile(
        "torchvision state dict",
        (".pth", ".pt"),
        ("import torch, torchvision", *_BUILD, 'network.eval().load_state_dict(torch.load("{file}"))'),
        _write_state_dict,
        _read_state_dict,
    ),
    "torchscript": NetworkFile(
        "TorchScript",
        (".ts", ".pt"),
        ("import torch", 'network = torch.jit.load("{file}").eval()'),
        _write_torchscript,
        _read_torchscript,
    ),
    "onnx": NetworkFile(
        "ONNX",
        (".onnx",),
        (
            "import onnxruntime",
            'session = onnxruntime.InferenceSession("{file}")',
            'network = lambda image: session.run(None, {{"image": image}})[0]  # of numpy arrays',
        ),
        write_onnx,
        run_onnx,
    ),
    "timm-hub": NetworkFile(
        "timm folder for the Hugging Face Hub",
        (".safetensors",),
        ("import timm", 'network = timm.create_model("local-dir:{folder}", pretrained=True).eval()'),
        write_hub_folder,
        read_hub_folder,
    ),
    "timm": NetworkFile(
        "timm state dict",
        (".safetensors", ".pth"),
        (
            "import timm",
            'network = timm.create_model("{arch}", num_classes={outputs}, in_chans={channels})',
            'timm.models.load_checkpoint(network.eval(), "{file}")',
        ),
        _write_timm,
        _read_timm,
    ),
}


def loading_code(form: NetworkFile, file: str, arch: str, network: nn.Module) -> str:
    """Python that loads `file`, which holds `network`, with the format's own libraries and nothing of this package."""
    channels = network.get_parameter("conv1.weight").shape[1]
    classes = 0 if isinstance(network.fc, nn.Identity) else network.get_parameter("fc.weight").shape[0]
    changes = [] if classes else ["network.fc = torch.nn.Identity()"]
    if channels == 1:
        changes.insert(0, "network.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)")
    values = {
        "file": file,
        "folder": Path(file).parent.as_posix(),
        "arch": arch,
        "classes": max(1, classes),
        "outputs": classes,
        "channels": channels,
    }
    lines = (line.format(**values, changes="\n".join(changes)) for line in form.code)
    return "\n".join(line for line in lines if line)


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in network.state_dict().items()}


def _arch(state: Mapping[str, Tensor]) -> str:
    return architecture_of(state) or "resnet50"


@contextmanager
def _without_deprecation() -> Iterator[None]:
    """torch recommends torch.export instead, but MONAI's bundles and C++ programs read TorchScript."""
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):
            warnings.filterwarnings("ignore", message=r"`?torch\.jit\.\w+`? is deprecated", category=category)
        yield
