"""A folder in the layout of timm's models on the Hugging Face Hub: ``config.json`` and ``model.safetensors``.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens it, and transformers' ``TimmWrapperModel`` too.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from medssl_monai.atomic import write_bytes, write_json
from medssl_monai.checkpoints.files import safetensors_bytes
from medssl_monai.checkpoints.manifests import LAYOUTS
from medssl_monai.checkpoints.preprocessing import Preprocessing

WEIGHTS, CARD = "model.safetensors", "README.md"
_SIZE = 224  # pixels, where the weights record none


def write_hub_folder(network: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write ``config.json`` beside the weights, then the weights.

    Args:
        network: torchvision's ResNet; timm's has the same names.
        path: of the weights; its folder is the model's.
        metadata: the header's strings, with ``arch``, ``mean`` and ``std``.
    """
    write_json(path.parent / "config.json", _config(network, metadata))
    write_bytes(
        path, safetensors_bytes(network.state_dict(), {**metadata, "format": "pt"})
    )  # transformers asks for the format


def read_hub_folder(path: Path) -> Callable[[Tensor], Tensor]:
    """The network as timm opens the folder of the weights."""
    import timm  # takes seconds, and only this format needs it

    network: nn.Module = timm.create_model(f"local-dir:{path.parent}", pretrained=True)
    return network.eval()


def _config(network: nn.Module, metadata: Mapping[str, str]) -> dict[str, Any]:
    """timm's description of a model. Its mean and std are of the windowed image in [0, 1], which timm knows nothing of:
    the window is in ``preprocessing``, an entry of our own."""
    known = Preprocessing.from_metadata(metadata)
    head = not isinstance(network.fc, nn.Identity)
    classes = json.loads(metadata.get("classes", "null"))
    channels = network.get_parameter("conv1.weight").shape[1]
    sides = [known.image_size] * 2 if isinstance(known.image_size, int) else list(known.image_size or [_SIZE] * 2)
    number = network.get_parameter("fc.weight").shape[0] if head else 0
    pretrained = {
        "input_size": [channels, *sides],
        "fixed_input_size": False,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "mean": _each(known.mean, channels, 0.0),
        "std": _each(known.std, channels, 1.0),
        "num_classes": number,
        "pool_size": [-(-side // 32) for side in sides],
        "first_conv": "conv1",
        "classifier": "fc",
    }
    return {
        "architecture": metadata["arch"],
        "num_classes": number,
        "num_features": LAYOUTS[metadata["arch"]].features,
        "global_pool": "avg",
        **({"label_names": classes} if head and classes else {}),
        "model_args": {"in_chans": channels},
        "pretrained_cfg": pretrained,
        "preprocessing": {
            key: json.loads(metadata[key])
            for key in ("window", "window_hu", "mean", "std", "channel_spacing_mm")
            if key in metadata
        },
    }


def _each(value: Any, channels: int, unknown: float) -> list[float]:
    """One number a channel."""
    values = list(value) if isinstance(value, (list, tuple)) else [unknown if value is None else value] * channels
    return [float(one) for one in values[:channels]]


def front_matter(head: bool, licence: str | None) -> str:
    """What the Hub reads at the head of a model card."""
    task = "image-classification" if head else "image-feature-extraction"
    content = {
        "library_name": "timm",
        "pipeline_tag": task,
        "tags": [task, "timm", "medical-imaging", "computed-tomography", "self-supervised-learning"],
        "license": "other",
        "license_name": licence or "not stated",
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n"
