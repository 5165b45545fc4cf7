"""Write an encoder for use elsewhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from medssl_monai.atomic import write_bytes, write_json
from medssl_monai.checkpoints.files import safetensors_bytes, without_passport
from medssl_monai.checkpoints.fingerprint import fingerprint
from medssl_monai.checkpoints.manifests import BACKBONE, architecture_of, backbone_shapes
from medssl_monai.checkpoints.preprocessing import with_window_limits
from medssl_monai.errors import CheckpointError


def encoder_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of an encoder, of a method's ``encoder`` or of a classifier without ``fc``, in torchvision's names.

    They are contiguous, on the CPU, and share no memory with the module. Raises CheckpointError unless they are exactly
    the tensors of a torchvision ResNet.
    """
    encoder = getattr(module, "encoder", module)
    state = {
        name: value.detach().cpu().contiguous().clone()
        for name, value in encoder.state_dict().items()
        if name.split(".")[0] in BACKBONE
    }
    arch = architecture_of(state)
    found = {name: tuple(value.shape) for name, value in state.items()}
    if arch is None or found != backbone_shapes(arch):
        raise CheckpointError(
            f"{type(encoder).__name__}: only torchvision's ResNet-18, 34 and 50 are exported, found {len(state)} "
            f"tensors of another layout; give the encoder or the method itself"
        )
    return state


def export_encoder(module: nn.Module, path: str | Path, *, metadata: Mapping[str, str]) -> dict[str, Any]:
    """Write ``NAME.safetensors`` and ``NAME.report.json`` beside it, both atomically; returns the report.

    `module` is an encoder, a method that has one, or a classifier. The tensors have torchvision's names without ``fc``.
    `metadata` goes into the file's header as strings: method, and the preprocessing as JSON (``window``, ``mean``,
    ``std``, ``channels``, ``channel_spacing_mm``). ``arch``, ``fingerprint`` and the window's limits ``window_hu`` are
    added. It must hold no identifier of a patient.

    Raises:
        CheckpointError: the module has no torchvision ResNet.
        ValueError: the path has another suffix, or a value is no string.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: an exported encoder is a .safetensors file, found {path.name!r}; change the suffix")
    wrong = [name for name, value in metadata.items() if not isinstance(value, str)]
    if wrong:
        raise ValueError(f"metadata: safetensors holds strings only, found other types in {wrong}; use str(value)")
    state = encoder_state(module)
    digest = fingerprint(state)
    header = {**with_window_limits(metadata), "arch": architecture_of(state) or "", "fingerprint": digest}
    write_bytes(path, safetensors_bytes(state, header))  # the library's own writer would let nobody else read it
    report: dict[str, Any] = {
        "file": path.name,
        "count": len(state),
        "parameters": sum(value.numel() for name, value in state.items() if name.endswith(("weight", "bias"))),
        "fingerprint": digest,
        "metadata": without_passport(header),
    }
    write_json(path.with_suffix(".report.json"), report)
    return report
