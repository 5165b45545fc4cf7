"""Reads a file of weights without executing anything in it.

A PyTorch file is a pickle, and a pickle may call any function. torch's restricted unpickler (``weights_only=True``)
builds tensors and plain containers only. The few other names in real checkpoints are mapped to `STAND_INS`, which
discard their arguments, so nothing is imported because of a file.
"""

import json
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from medssl_monai.errors import CheckpointError

# Six times the largest published file (SparK's training checkpoint, 0.6 GB); more is a mistake or an attack.
MAX_BYTES = 4 * 2**30

PASSPORT = "passport"
"""Entry of a safetensors header, see `medssl_monai.labels.passport`."""


class _Ignored:
    """Replaces an object that no weights depend on; accepts and discards any arguments and state."""

    def __new__(cls, *args: object) -> "_Ignored":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _empty(*args: object) -> dict[Any, Any]:
    return {}


# Every global that a checkpoint may name besides tensors, and its replacement.
STAND_INS: dict[str, Any] = {
    # Hyper-parameters of Lightning's callers, of timm and of the scripts of SwAV and MoCo.
    "argparse.Namespace": _Ignored,
    "pathlib.PosixPath": _Ignored,
    "pathlib.WindowsPath": _Ignored,
    "pathlib._local.PosixPath": _Ignored,  # Python 3.13
    "pathlib._local.WindowsPath": _Ignored,
    # Lightning: its dictionary of hyper-parameters under the names it has had; before 1.2.8 a function, before 1.5
    # the classes of callbacks.
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
    "lightning.fabric.utilities.data.AttributeDict": OrderedDict,
    "pytorch_lightning.utilities.argparse._gpus_arg_default": _Ignored,
    "pytorch_lightning.utilities.argparse_utils._gpus_arg_default": _Ignored,
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": _Ignored,
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping": _Ignored,
    # OmegaConf, in which solo-learn keeps its hyper-parameters.
    "omegaconf.dictconfig.DictConfig": _Ignored,
    "omegaconf.listconfig.ListConfig": _Ignored,
    "omegaconf.base.ContainerMetadata": _Ignored,
    "omegaconf.base.Metadata": _Ignored,
    "omegaconf.nodes.AnyNode": _Ignored,
    "typing.Any": _Ignored,
    "builtins.dict": _Ignored,
    "builtins.list": _Ignored,
    "builtins.int": _Ignored,
    "builtins.float": _Ignored,
    "builtins.str": _Ignored,
    "builtins.bool": _Ignored,
    "collections.defaultdict": _empty,
    # NumPy scalars: the best accuracy so far.
    "numpy.core.multiarray.scalar": _Ignored,
    "numpy._core.multiarray.scalar": _Ignored,
    "numpy.dtype": _Ignored,
}


def read_weights(file: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """The content of a ``.safetensors`` or PyTorch file (zip or older), on the CPU, and its header's strings.

    Raises:
        CheckpointError: the file is larger than `MAX_BYTES` (packed or unpacked), truncated, damaged, no dictionary, or
            names anything but tensors, plain values and `STAND_INS`. Nothing in the file was executed.
    """
    _check_size(file, file.stat().st_size, "on disk")
    try:
        if file.suffix == ".safetensors":
            with safe_open(str(file), framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata() or {})  # noqa: SIM118
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                _check_size(file, sum(entry.file_size for entry in archive.infolist()), "unpacked")
        with _only_stand_ins():
            content = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # whatever a broken file makes torch, zipfile or safetensors raise
        raise CheckpointError(
            f"{file.name}: must be a safetensors file or a PyTorch file of tensors, and is not readable as one "
            f"({_reason(error)}); copy or export it again"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{file.name}: must hold a dictionary of tensors, found {type(content).__name__}; save a state_dict()"
        )
    return content, {}


def read_header(file: Path) -> dict[str, str]:
    """The strings in a safetensors file's header; the tensors are not read.

    Raises:
        CheckpointError: the file is missing, or is no safetensors file.
    """
    try:
        with safe_open(str(file), framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: must be a safetensors file, and is not readable as one ({error})") from error


def safetensors_bytes(state: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file: the same bytes for the same tensors, of any device, and strings.

    The library writes the strings of a header in an order that changes from one process to the next. Here they are
    sorted; the tensors follow the header, and their offsets count from its end.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    content = save(tensors, metadata=dict(metadata))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the tensors
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def without_passport(header: Mapping[str, str]) -> dict[str, str]:
    """A header's strings for a report, where a passport of some hundred kilobytes is only named."""
    return {key: "carried" if key == PASSPORT else value for key, value in header.items()}


def _check_size(file: Path, size: int, where: str) -> None:
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{file.name}: weights take at most {MAX_BYTES / 2**30:.0f} GiB, found {size / 2**30:.1f} GiB {where}; "
            f"save the model's state_dict() alone"
        )


@contextmanager
def _only_stand_ins() -> Iterator[None]:
    """Allow torch's unpickler the names in `STAND_INS`, and none that other libraries have allowed."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([(v, k) for k, v in STAND_INS.items()]):
            # torch warns about other protocols than 2; it still refuses what it cannot read.
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _reason(error: Exception) -> str:
    if isinstance(error, SafetensorError):
        return "damaged"
    text = str(error)
    for sign in ("GLOBAL ", "reduce for unrecognized function ", "Can only "):
        if sign in text:
            named = text.partition(sign)[2].split(" was not", 1)[0].split("\n")[0]
            return f"unsafe: it wants to build {named[:120]}"
    return f"damaged or unsafe, {type(error).__name__}"
