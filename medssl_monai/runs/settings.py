"""Settings that many bundles share, checked before anything is read or built: MONAI's own errors name no setting."""

import re
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch

from medssl_monai.errors import ConfigError
from medssl_monai.statistics.encoder_measures import NONE, check_measure
from medssl_monai.store.redundancy import redundancy_rule
from medssl_monai.store.urls import remote_url
from medssl_monai.transforms.intensity import checked_spacing

# Whole numbers, with the least of each.
_WHOLE = {
    **dict.fromkeys(("max_epochs", "epoch_length", "batch_size", "val_interval", "probe_interval"), 1),
    "keep_interval": 1,
    **dict.fromkeys(("num_workers", "frozen_epochs", "seed", "subset_seed", "fold"), 0),
}
_ABOVE_ZERO = {"learning_rate", "layer_decay"}
_TRUTHS = {
    *("resume", "augment", "amp", "confidence", "check_weights", "train_batch_norm", "figures", "deterministic"),
    "keep_epochs",
}
_OF_PICTURES: dict[str, Any] = {"fold": 0, "patients": None, "leave_out": []}
"""Keys of the classification bundle that only some data sets of pictures have, and what they are without."""
_OPEN = {"epoch_length", "keep_interval"}  # may be null
_NEEDED = {*_WHOLE, *_ABOVE_ZERO, *_TRUTHS, "warmup_epochs", "device", "redundancy", "keep_best_by"} - _OPEN
PLACES = {
    *("dataset_dir", "store_dir", "cache_dir", "output_dir", "ckpt_dir", "bundle_root"),
    *("encoder_weights", "probe_labels", "patients", "redundancy_encoder"),
}
"""Keys that say where files lie."""
# What a folder holds, by the file that tells.
_RESULTS = {
    "run.json": "a run",
    "store.json": "a slice store",
    "metrics.json": "an evaluation",
    "prediction.json": "a prediction",
}
_FOLDERS = {"output_dir": "--out", "ckpt_dir": "ckpt_dir"}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse values that no bundle could run with.

    Args:
        settings: top-level keys of a bundle's configuration; what MONAI has yet to evaluate (``$…``, ``@…``), and
            null where a bundle may leave a key open, are left to whoever takes them.

    Raises:
        ConfigError: a value is of the wrong kind, out of range or missing, the device is not there, or a folder
            is a file.
    """
    for name, value in settings.items():
        if value is None and name in _NEEDED:
            raise ConfigError(f"{name}: needs a value, found null; give one, or leave {name} out")
        if value is None or (isinstance(value, str) and value.startswith(("$", "@", "%"))):
            continue
        if name in _WHOLE and not (_is_number(value, Integral) and value >= _WHOLE[name]):
            raise ConfigError(f"{name}: must be a whole number from {_WHOLE[name]}, found {value!r}; correct it")
        if name == "image_size" and not _is_size(value):
            raise ConfigError(
                f"image_size: must be a whole number of pixels, or two of them, rows and columns, found {value!r}; "
                "give for instance 224"
            )
        if name == "warmup_epochs" and not (_is_number(value, Real) and 0 <= value < float("inf")):
            raise ConfigError(f"warmup_epochs: must be a number from 0, found {value!r}; correct it")
        if name in _ABOVE_ZERO and not (_is_number(value, Real) and 0 < value < float("inf")):
            raise ConfigError(f"{name}: must be a number above 0, found {value!r}; give for instance 1e-4")
        if name in _TRUTHS and not isinstance(value, bool):
            raise ConfigError(f"{name}: must be true or false, found {value!r}; give one of them")
        if name in TEXTS and not isinstance(value, str):
            raise ConfigError(f"{name}: must be text, found {value!r}; put it in quotes")
        if name in PLACES and isinstance(value, (Real, dict)):
            raise ConfigError(
                f"{name}: must be a path, found {value!r}; a name that reads as a number is written ./{value}"
            )
        if name == "channel_spacing_mm":
            checked_spacing(value)
        if name == "redundancy":
            redundancy_rule(value)
        if name == "keep_best_by":
            check_measure(value, name, [NONE])
        if name == "device":
            _check_device(value)
        if name in _FOLDERS:
            check_folder(value, _FOLDERS[name])
    data = settings.get("data")
    taken = set(map(str, data.values())) if isinstance(data, Mapping) else None
    for name, without in _OF_PICTURES.items():
        if taken is not None and settings.get(name, without) != without and f"@{name}" not in taken:
            raise ConfigError(
                f"{name}: these data have no such setting, found {settings[name]!r}; leave it out, or add the overlay "
                "of a data set of pictures that has it, such as finetune_covid_ct or finetune_head_ct"
            )


TEXTS = {"patient_from"}
"""Keys of text that may hold any character."""


def place_given(value: Any, name: str) -> str:
    """A path that a caller gave, as text.

    Raises:
        ConfigError: it is neither text nor a path, or it is empty.
    """
    if not isinstance(value, (str, Path)) or not str(value):
        raise ConfigError(f"{name}: must be a path, found {value!r}; give one, as text or a pathlib.Path")
    return remote_url(value) or str(value)


def literal(value: Any) -> Any:
    """A path, or a list of paths, in a form that MONAI's parser takes as it stands.

    The parser reads ``#`` as a step into a configuration, and a leading ``$``, ``@`` or ``%`` as an expression, a
    reference or a macro.

    Example:
        >>> literal("runs/#2"), literal("@home")
        ("$'runs/' + chr(35) + '2'", './@home')
    """
    if isinstance(value, (list, tuple)):
        return [literal(each) for each in value]
    if not isinstance(value, (str, Path)):
        return value
    text = str(value)
    if "#" in text:
        return literal_text(text)
    return f"./{text}" if text.startswith(("$", "@", "%")) else text


def literal_text(text: str) -> str:
    """Text of any characters, in a form that MONAI's parser takes as it stands."""
    parts = [f"chr({ord(part)})" if part in "#@%" else repr(part) for part in re.split("([#@%])", text) if part]
    return "$" + " + ".join(parts or ["''"])


def check_folder(path: str | Path, option: str) -> None:
    """Refuse an output folder that can be none.

    Raises:
        ConfigError: it, or a folder above it, is a file.
    """
    there = next((one for one in (Path(path), *Path(path).parents) if one.exists()), None)
    if there is not None and not there.is_dir():
        raise ConfigError(f"{option}: must be a folder, and {there} is a file; give another folder")


def check_results_folder(path: str | Path, kind: str) -> None:
    """Refuse to write results into a folder that holds something else.

    Args:
        path: the folder, which may be missing, or hold earlier results of the same kind.
        kind: ``an evaluation`` or ``a prediction``.

    Raises:
        ConfigError: it is the folder of a run, a store, or results of the other kind; or it is a file.
    """
    check_folder(path, "--out")
    for name, held in _RESULTS.items():
        if held != kind and (Path(path) / name).is_file():
            raise ConfigError(
                f"--out {path}: {kind} needs a folder of its own, found {held} ({name}); give another --out"
            )


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _is_size(value: Any) -> bool:
    sides = value if isinstance(value, (list, tuple)) and len(value) == 2 else [value]
    return all(_is_number(side, Integral) and side >= 1 for side in sides)


def _check_device(value: Any) -> None:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"device: must be cpu, cuda or cuda:NUMBER, found {value!r}; give one of them") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device: {value} is asked for, and torch finds no CUDA device here; set device=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {value} is asked for, and there are {torch.cuda.device_count()}, counted from 0; give another"
        )
