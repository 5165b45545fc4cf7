"""Read encoder weights from a file or a run, strictly, and say what was read."""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from medssl_monai.checkpoints.fingerprint import fingerprint
from medssl_monai.checkpoints.manifests import BACKBONE, FORMATS, LAYOUTS, Format, architecture_of, backbone_shapes
from medssl_monai.errors import CheckpointError

__all__ = ["LoadReport", "load_encoder", "load_exactly", "load_into_resnet"]

logger = logging.getLogger(__name__)

# Where a run keeps its weights, the first that exists is taken.
RUN_WEIGHTS = ("models/encoder.safetensors", "models/model.pt")


@dataclass(frozen=True)
class LoadReport:
    """What was read: names in torchvision's spelling, `unexpected` ones in the file's own.

    `matched` were taken; `missing` are those of the network that the file lacks (``fc.*`` at most); `unexpected` are
    the file's that are no part of an encoder and were left out; `reshaped` were given another shape; `fingerprint`
    is that of the matched tensors.
    """

    source: str
    format: str
    arch: str
    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    fingerprint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json.dump` takes."""
        return {**asdict(self), "metadata": dict(self.metadata)}

    def __str__(self) -> str:
        return (
            f"{self.arch} from {self.source} ({self.format}): {len(self.matched)} tensors matched, "
            f"{_some(self.missing)} missing, {_some(self.unexpected)} left out, fingerprint {self.fingerprint[:16]}"
        )


def load_encoder(path: str | Path) -> tuple[dict[str, Tensor], LoadReport]:
    """The encoder of a ``.safetensors``, ``.pt`` or ``.pth`` file or of a run's folder, in torchvision's names.

    Nothing is unpickled but tensors and plain containers. Raises CheckpointError where the file is missing, broken,
    of an unknown format, incomplete, or holds values that are not finite.
    """
    file = _weights_file(Path(path))
    content, metadata = _read(file)
    form, tensors = _recognise(content, file)
    state: dict[str, Tensor] = {}
    unexpected: list[str] = []
    for name, value in tensors.items():
        inner = name.removeprefix(form.prefix)
        if isinstance(value, Tensor) and name.startswith(form.prefix) and inner.split(".")[0] in BACKBONE:
            state[inner] = value
        else:
            unexpected.append(name)
    arch = architecture_of(state)
    if arch is None:
        raise CheckpointError(
            f"{file.name}: the encoder must be one of {', '.join(LAYOUTS)}, found {len(state)} tensors of another "
            f"layout; pre-train or export one of these"
        )
    _check_against(backbone_shapes(arch), state, f"{file.name}: a {arch}")
    broken = [name for name, value in state.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(
            f"{file.name}: weights must be finite, found NaN or infinity in {_some(broken)}; take an earlier checkpoint"
        )
    digest = fingerprint(state)
    if metadata.get("fingerprint", digest) != digest:
        raise CheckpointError(
            f"{file.name}: the tensors must have the fingerprint in the file's header, found {digest[:16]} for "
            f"{metadata['fingerprint'][:16]}; export the encoder again"
        )
    return state, LoadReport(
        source=file.name,
        format=form.name,
        arch=arch,
        matched=tuple(state),
        unexpected=tuple(unexpected),
        fingerprint=digest,
        metadata=metadata,
    )


def load_into_resnet(network: nn.Module, path: str | Path) -> LoadReport:
    """Load the encoder's weights into a torchvision ResNet, in place; only ``fc.*`` may be missing.

    Raises CheckpointError, and leaves the network as it was, where anything else differs.
    """
    state, report = load_encoder(path)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    backbone = {name: shape for name, shape in wanted.items() if not name.startswith("fc.")}
    arch = architecture_of(backbone)
    if arch != report.arch:
        raise CheckpointError(
            f"{report.source}: weights are of a {report.arch}, the network is a {arch or 'ResNet of another layout'}; "
            f"set arch to {report.arch} or give other weights"
        )
    _check_against(backbone, state, f"{report.source}: this network")
    network.load_state_dict(state, strict=False)
    missing = tuple(name for name in wanted if name not in state)
    return replace(report, missing=missing)


def load_exactly(network: nn.Module, path: str | Path) -> None:
    """Load a flat state dict (``.pt``, ``.pth``, ``.safetensors`` or a run's ``models/model.pt``), every tensor of it.

    Raises CheckpointError, and leaves the network as it was, where any name or shape differs.
    """
    file = Path(path) / "models/model.pt" if Path(path).is_dir() else _weights_file(Path(path))
    content, _ = _read(file)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    _check_against(wanted, state, f"{file.name}: this network")
    network.load_state_dict(state)


def _weights_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such file or run; give a .safetensors, .pt or .pth file or a run's folder")
    for relative in RUN_WEIGHTS:
        if (path / relative).is_file():
            return path / relative
    raise CheckpointError(
        f"{path}: a run must hold {' or '.join(RUN_WEIGHTS)}, found neither; let it finish, or give its "
        f"checkpoints/last.pt"
    )


def _read(file: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a broken file makes torch, zipfile or safetensors raise
        reason = "damaged" if isinstance(error, SafetensorError) else f"damaged or unsafe, {type(error).__name__}"
        raise CheckpointError(
            f"{file.name}: must be a safetensors file or a PyTorch file of tensors, and is not readable as one "
            f"({reason}); copy or export it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{file.name}: must hold a dictionary of tensors, found {type(content).__name__}; save a state_dict()"
        )
    return content, {}


def _recognise(content: Mapping[str, Any], file: Path) -> tuple[Format, Mapping[str, Any]]:
    for form in FORMATS:
        tensors = content if form.wrapper is None else content.get(form.wrapper)
        if isinstance(tensors, Mapping) and f"{form.prefix}conv1.weight" in tensors:
            return form, tensors
    known = "; ".join(form.name for form in FORMATS)
    raise CheckpointError(
        f"{file.name}: no encoder in any known format ({known}), found {_some(list(content))}; "
        f"export it with torchvision's names"
    )


def _check_against(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Tensor], owner: str) -> None:
    absent = [name for name in wanted if name not in state]
    extra = [name for name in state if name not in wanted]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {shape}"
        for name, shape in wanted.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if absent or extra or shapes:
        raise CheckpointError(
            f"{owner} needs {len(wanted)} tensors, found {len(wanted) - len(absent) - len(shapes)} that fit: "
            f"{_some(absent)} missing, {_some(extra)} of no use, {_some(shapes)} of another shape; "
            f"give weights of the same architecture and number of classes"
        )


def _some(names: list[str] | tuple[str, ...], shown: int = 3) -> str:
    """``5 (a, b, c, …)``: a count with the first names."""
    if not names:
        return "0"
    return f"{len(names)} ({', '.join(names[:shown])}{', …' if len(names) > shown else ''})"
