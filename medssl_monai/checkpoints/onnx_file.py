"""Export to ONNX, for any batch size and image size; needs the extra ``onnx``."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medssl_monai.atomic import write_atomically
from medssl_monai.errors import ConfigError

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def require_onnx() -> None:
    """Raise ConfigError, with the remedy, if a package of the extra is missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"--format onnx: needs the packages {', '.join(_PACKAGES)}, found no {', '.join(missing)}; "
            f"install them by pip install 'medssl-monai[onnx]'"
        )


def write_onnx(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write the network with input ``image`` and output ``features`` (or ``logits``); batch, height and width are free.

    `metadata` becomes the model's properties. Raises ConfigError where the extra ``onnx`` is not installed.
    """
    require_onnx()
    onnx: Any = importlib.import_module("onnx")
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    channels = network.get_parameter("conv1.weight").shape[1]
    program: Any = torch.onnx.export(
        network,
        (torch.zeros(2, channels, 64, 96),),  # different sizes, so that none is taken for a constant
        dynamo=True,
        verbose=False,
        input_names=["image"],
        output_names=["features" if isinstance(network.fc, nn.Identity) else "logits"],
        dynamic_shapes=(free,),
    )
    model: Any = program.model_proto
    _forget_sources(model)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    write_atomically(path, lambda file: onnx.save_model(model, str(file)))


def run_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    """The function that the file computes with onnxruntime, on the CPU."""
    require_onnx()
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda image: torch.from_numpy(session.run(None, {"image": image.numpy()})[0])


def _forget_sources(model: Any) -> None:
    """Remove the source files and lines that torch's exporter records at each node: they are paths of this computer."""
    graph = model.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
