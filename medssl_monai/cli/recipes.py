"""Recipes: the options of `medssl ingest` for a known archive, in a YAML file of `configs/ingest/` or of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medssl_monai.errors import ConfigError, InputError
from medssl_monai.ingest.dicom.modalities import checked_modality
from medssl_monai.resources import resource_dir

OPTIONS: dict[str, type] = {
    "modality": str,
    "assume_hu": bool,
    "workers": int,
    "scheduler": str,
    "patient_from": str,
    "query": list,
    "verify_tls": bool,
    "report": bool,
}
"""What a recipe may hold: names and types of the command's options, which win where they are given as well."""


def load_recipe(name: str) -> dict[str, Any]:
    """The options in a YAML file, or in the recipe of that name.

    Raises:
        ConfigError: there is no such file or recipe, it is not YAML, or it holds something else.
    """
    import yaml

    folder = resource_dir("configs") / "ingest"
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    known = ", ".join(sorted(one.stem for one in folder.glob("*.yaml")))
    if not path.is_file():
        raise ConfigError(f"recipe {name!r}: neither a YAML file nor one of {known}; correct the name")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe {path}: not readable as YAML ({type(error).__name__}); correct it") from error
    if not isinstance(content, dict):
        raise ConfigError(f"recipe {path}: needs options with values, found {type(content).__name__}; correct it")
    for key, value in content.items():
        if key not in OPTIONS or not isinstance(value, OPTIONS[key]):
            allowed = ", ".join(f"{one} ({kind.__name__})" for one, kind in OPTIONS.items())
            raise ConfigError(f"recipe {path}: {key!r}: {value!r} is no option; there are {allowed}; correct it")
    if "modality" in content:
        try:
            content["modality"] = checked_modality(content["modality"])
        except InputError as error:
            raise ConfigError(f"recipe {path}: {error}") from error
    return content
