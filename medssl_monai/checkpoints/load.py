"""Reads encoder weights from a file or a run, strictly, with a report."""

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.checkpoints.files import read_weights
from medssl_monai.checkpoints.fingerprint import fingerprint
from medssl_monai.checkpoints.first_convolution import spread_channels
from medssl_monai.checkpoints.formats import Arm, find_encoder, reason_for
from medssl_monai.checkpoints.manifests import LAYOUTS, architecture_of, backbone_shapes
from medssl_monai.checkpoints.preprocessing import Preprocessing
from medssl_monai.checkpoints.report import LoadReport, some
from medssl_monai.errors import CheckpointError, suggestion
from medssl_monai.mappings import read_run_record
from medssl_monai.resources import encoder_path, shipped_encoders

logger = logging.getLogger(__name__)

# Weights of a run; the first file that exists is used.
RUN_WEIGHTS = ("models/encoder.safetensors", "models/model.pt", "model.safetensors")
"""Of a pre-training run, of a fine-tuning run, and of an exported folder for the Hub."""

_COUNTER = "num_batches_tracked"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_INTEGERS = (torch.int64, torch.int32)


def load_encoder(
    path: str | Path, form: str | None = None, arm: Arm | None = None
) -> tuple[dict[str, Tensor], LoadReport]:
    """The encoder of a file or a run's folder: float32, in torchvision's names, with three channels.

    Only tensors and plain containers are unpickled.

    Args:
        path: a ``.safetensors``, ``.pt`` or ``.pth`` file, a run's folder, or the name of a shipped encoder
            (`resources.shipped_encoders`).
        form: a format of `formats.FORMATS` (or ``prefix:WORDS.``); None recognises it from the names.
        arm: ``key`` or ``target`` for MoCo's or BYOL's moving average instead of the trained network.

    Returns:
        The tensors by name, and the report.

    Example:
        >>> state, report = load_encoder("runs/spark")  # doctest: +SKIP
        >>> len(state), report.arch  # doctest: +SKIP
        (318, 'resnet50')

    Raises:
        CheckpointError: the file is missing, too large, broken, unsafe, of an unknown format, lacks a tensor of the
            encoder, or holds values that are not finite.
    """
    file = weights_file(Path(path))
    content, header = read_weights(file)
    encoder = find_encoder(content, file.name, form, arm)
    found: dict[str, Tensor] = {}
    unexpected: dict[str, list[str]] = {}
    for name, value in encoder.tensors.items():
        ours = encoder.torchvision_name(name) if isinstance(name, str) and isinstance(value, Tensor) else None
        if ours is None:
            unexpected.setdefault(reason_for(str(name), value, encoder), []).append(str(name))
        else:
            found[ours] = value.detach()
    arch = architecture_of(found)
    if arch is None:
        raise CheckpointError(
            f"{file.name}: the encoder must be one of {', '.join(LAYOUTS)}, found {len(found)} tensors of another "
            f"layout; pre-train or export one of these"
        )
    _check_kinds(found, file.name)
    state, reshaped, filled = _fitted(found, backbone_shapes(arch))
    check_against(backbone_shapes(arch), state, f"{file.name}: a {arch}")
    _check_finite(found, file.name)
    _check_header(header, found, file.name)
    state = {name: _plain(state[name]) for name in backbone_shapes(arch)}
    return state, LoadReport(
        source=file.name,
        format=encoder.form.name,
        arch=arch,
        arm=encoder.arm,
        matched=tuple(name for name in state if name in found),
        unexpected={reason: tuple(names) for reason, names in unexpected.items()},
        beside=encoder.beside,
        reshaped=reshaped,
        filled=filled,
        dtypes=Counter(str(value.dtype).removeprefix("torch.") for value in found.values()),
        fingerprint=fingerprint(state),
        metadata={**encoder.form.preprocessing.to_metadata(), **_run_settings(Path(path)), **header},
    )


def load_into_resnet(
    network: nn.Module, path: str | Path, form: str | None = None, arm: Arm | None = None
) -> LoadReport:
    """Load the encoder's weights into a torchvision ResNet, in place; only ``fc.*`` may be missing.

    Raises CheckpointError if anything else differs; the network then does not change. Arguments as in `load_encoder`.

    Example:
        >>> network = torchvision.models.resnet50()  # doctest: +SKIP
        >>> load_into_resnet(network, "runs/spark").missing  # doctest: +SKIP
        ('fc.weight', 'fc.bias')
    """
    return put_into_resnet(network, *load_encoder(path, form, arm))


def put_into_resnet(network: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> LoadReport:
    """As `load_into_resnet`, for the result of `load_encoder`."""
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    backbone = {name: shape for name, shape in wanted.items() if not name.startswith("fc.")}
    arch = architecture_of(backbone)
    if arch != report.arch:
        raise CheckpointError(
            f"{report.source}: weights are of a {report.arch}, the network is a {arch or 'ResNet of another layout'}; "
            f"set arch to {report.arch} or give other weights"
        )
    check_against(backbone, state, f"{report.source}: this network")
    network.load_state_dict(dict(state), strict=False)
    missing = tuple(name for name in wanted if name not in state)
    return replace(report, missing=missing)


def load_exactly(network: nn.Module, path: str | Path) -> None:
    """Load a flat state dict (``.pt``, ``.pth``, ``.safetensors`` or a run's ``models/model.pt``), every tensor of it.

    Raises CheckpointError if any name or shape differs; the network then does not change.
    """
    file = Path(path) / "models/model.pt" if Path(path).is_dir() else weights_file(Path(path))
    content, _ = read_weights(file)
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    state = {name: value for name, value in content.items() if isinstance(value, Tensor)}
    check_against(wanted, state, f"{file.name}: this network")
    network.load_state_dict(state)


def preprocessing_of(path: str | Path) -> Preprocessing:
    """The preprocessing of the weights' training images, from the file's header, the run's record, or its format.

    Unknown values are None. Raises CheckpointError if the file holds no encoder.
    """
    _, report = load_encoder(path)
    return Preprocessing.from_metadata(report.metadata, report.source)


def weights_file(path: Path) -> Path:
    """The file itself, or that of a run's network or a shipped encoder; raises CheckpointError if there is none."""
    name, path = str(path), encoder_path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        known = shipped_encoders()
        raise CheckpointError(
            f"{name}: no such file or run{suggestion(name, known)}; give a .safetensors, .pt or .pth file, a run's "
            f"folder, or a shipped encoder ({', '.join(known)})"
        )
    for relative in RUN_WEIGHTS:
        if (path / relative).is_file():
            return path / relative
    raise CheckpointError(
        f"{path}: a run must hold {' or '.join(RUN_WEIGHTS)}, found neither; let it finish, or give its "
        f"checkpoints/last.pt"
    )


def _run_settings(run: Path) -> dict[str, str]:
    """The preprocessing in a run's record; nothing for a file."""
    settings = read_run_record(run).get("settings", {})
    known = {name: settings.get(name) for name in ("window", "mean", "std", "channel_spacing_mm")}
    size = settings.get("image_size")
    return Preprocessing(**known, channels=settings.get("image_channels"), image_size=size).to_metadata()


def _fitted(
    found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """The tensors in torchvision's shapes, and the names of those reshaped and filled; features do not change."""
    state, reshaped = dict(found), []
    for name, value in found.items():
        shape = tuple(value.shape)
        if name.endswith(_COUNTER) and shape == (1,):
            state[name] = value.reshape(())
        elif name == "conv1.weight" and value.ndim == 4 and shape[1] == 1 and value.is_floating_point():
            state[name] = spread_channels(value)
        else:
            continue
        reshaped.append(f"{name} {shape} to {tuple(state[name].shape)}")
    filled = [name for name in wanted if name.endswith(_COUNTER)]
    if any(name in found for name in filled):
        filled = []  # a file that has some of the counters must have them all
    state |= {name: torch.tensor(0) for name in filled}
    return state, tuple(reshaped), tuple(filled)


def _check_kinds(found: Mapping[str, Tensor], source: str) -> None:
    odd = [
        f"{name} {str(value.dtype).removeprefix('torch.')}"
        for name, value in found.items()
        if value.dtype not in (_INTEGERS if name.endswith(_COUNTER) else _FLOATS)
        or value.layout is not torch.strided
        or value.device.type != "cpu"
        or type(value) not in (Tensor, nn.Parameter)
    ]
    if odd:
        raise CheckpointError(
            f"{source}: weights must be dense tensors of floating-point numbers, found {some(odd)}; "
            f"export them as float32"
        )


def _check_finite(found: Mapping[str, Tensor], source: str) -> None:
    broken = [name for name, value in found.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(
            f"{source}: weights must be finite, found NaN or infinity in {some(broken)}; take an earlier checkpoint"
        )


def _check_header(header: Mapping[str, str], found: Mapping[str, Tensor], source: str) -> None:
    if "fingerprint" in header and (digest := fingerprint(found)) != header["fingerprint"]:
        raise CheckpointError(
            f"{source}: the tensors must have the fingerprint in the file's header, found {digest[:16]} for "
            f"{header['fingerprint'][:16]}; export the encoder again"
        )


def _plain(value: Tensor) -> Tensor:
    """Contiguous, with memory of its own, float32 or int64."""
    dtype = torch.float32 if value.is_floating_point() else torch.int64
    return value.to(dtype, memory_format=torch.contiguous_format, copy=True)


def check_against(wanted: Mapping[str, tuple[int, ...]], state: Mapping[str, Any], owner: str) -> None:
    """Raise CheckpointError, which begins with `owner`, unless `state` has exactly the `wanted` names and shapes."""
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
            f"{some(absent)} missing, {some(extra)} of no use, {some(shapes)} of another shape; "
            f"give weights of the same architecture and number of classes"
        )
