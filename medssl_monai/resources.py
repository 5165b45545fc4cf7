"""Finds the shipped bundles, configurations and encoders, in a checkout or an installed wheel, and the user's cache."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from medssl_monai.errors import ConfigError, suggestion

_PACKAGE = Path(__file__).resolve().parent


def resource_dir(kind: Literal["bundles", "configs", "encoders"]) -> Path:
    """Folder of the shipped bundles, configurations or encoders.

    In a wheel they are inside the package (setup.cfg, ``package_dir``), in a checkout beside it.
    """
    inside = _PACKAGE / kind
    return inside if inside.is_dir() else _PACKAGE.parent / kind


def user_cache() -> Path:
    """``$XDG_CACHE_HOME/medssl-monai``, or ``~/.cache/medssl-monai``: what can be made or fetched again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medssl-monai"


def bundle_dir(name: str) -> Path:
    """Folder of one shipped bundle, such as ``ct_ssl_spark``.

    Raises:
        ConfigError: no such bundle.
    """
    root = resource_dir("bundles")
    known = sorted(p.name for p in root.iterdir() if (p / "configs" / "metadata.json").is_file())
    if name not in known:
        raise ConfigError(f"bundle {name!r} does not exist{suggestion(name, known)}; choose one of {', '.join(known)}")
    return root / name


def config_file(name_or_path: str) -> Path:
    """An overlay: a path to a YAML or JSON file, or the name of one in ``configs/`` (``demo``: ``configs/demo.yaml``).

    The plans of studies and the table of windows, which lie there too, are not overlays.

    Raises:
        ConfigError: neither a file nor a shipped overlay.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml", ".json"}:
        if path.is_file():
            return path
        raise ConfigError(f"configuration file {name_or_path!r} does not exist; check the path")
    root = resource_dir("configs")
    known = sorted(p.stem for p in root.glob("*.yaml") if p.stem != "windows" and not p.stem.startswith("study_"))
    if name_or_path not in known:
        hint = suggestion(name_or_path, known)
        if name_or_path.startswith("study_") and (root / f"{name_or_path}.yaml").is_file():
            hint = f" (it is a plan for `medssl study {name_or_path}`)"
        raise ConfigError(
            f"configuration {name_or_path!r} is neither a YAML file nor one of {', '.join(known)}{hint}; correct it"
        )
    return root / f"{name_or_path}.yaml"


def config_files(names: str | Path | Sequence[str | Path]) -> list[Path]:
    """Several overlays, or one: see `config_file`."""
    return [config_file(str(name)) for name in ([names] if isinstance(names, (str, Path)) else names)]


def shipped_encoders() -> list[str]:
    """Names of the encoders in ``encoders/``, such as ``ct-lidc-spark-resnet50``."""
    return sorted(p.stem for p in resource_dir("encoders").glob("*.safetensors"))


def encoder_path(name_or_path: str | Path) -> Path:
    """The file of a shipped encoder where its name is given; otherwise the path itself, which need not exist.

    A file or folder of that name comes first.

    Example:
        >>> encoder_path("ct-lidc-spark-resnet50").name
        'ct-lidc-spark-resnet50.safetensors'
        >>> encoder_path("runs/spark")
        PosixPath('runs/spark')
    """
    path = Path(name_or_path)
    if path.exists() or str(path) not in shipped_encoders():
        return path
    return resource_dir("encoders") / f"{path}.safetensors"
