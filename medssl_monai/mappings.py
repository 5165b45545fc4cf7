"""YAML and JSON files that hold names with values: read whole, or refused in one sentence."""

import json
from pathlib import Path
from typing import Any

from medssl_monai.errors import ConfigError


def read_mapping(path: Path) -> dict[str, Any]:
    """The content of a YAML or JSON file (by its suffix), whose top level must hold names with values.

    Raises:
        ConfigError: the file cannot be read, is neither, or holds a list, a single value or nothing.
    """
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        told = " ".join(str(error).split())[:160]
        raise ConfigError(f"{path}: not readable as {kind} ({told}); correct the file or write it again") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise ConfigError(f"{path}: must hold names with values, found {found}; correct the file or write it again")
    return content


def read_run_record(run: Path) -> dict[str, Any]:
    """The content of ``RUN/run.json``, with its ``settings``; empty where there is none, such as for a file of weights.

    Raises:
        ConfigError: the file is broken.
    """
    file = run / "run.json"
    if not file.is_file():
        return {}
    record = read_mapping(file)
    if not isinstance(record.setdefault("settings", {}), dict):
        raise ConfigError(f"{file}: settings must hold names with values; correct the file or write it again")
    return record
