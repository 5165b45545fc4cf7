"""A run is itself a bundle: what is put into its folder when it starts."""

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from monai.bundle import ConfigParser

from medssl_monai.atomic import write_json, write_text
from medssl_monai.networks.processes import process_rank

__all__ = ["record_run"]

_PACKAGES = ("medssl-monai", "torch", "torchvision", "monai", "pytorch-ignite", "numpy", "timm")
# Where the data lie may name a patient, and is nobody's business once the run is handed on.
_PRIVATE = {"dataset_dir", "store_dir", "output_dir", "resume", "overlays"}


def record_run(
    output_dir: str | Path,
    bundle_root: str | Path,
    settings: Mapping[str, Any],
    overlays: Sequence[str] = (),
    data_fingerprint: str | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make ``output_dir`` a bundle that says how it came to be.

    Writes ``configs/`` (the bundle's own files with the settings as run), ``run.json`` (versions, settings, data
    fingerprint), licence and README. Paths of data are left out. Of several processes the first writes.

    Args:
        output_dir: the run's folder; made if need be.
        bundle_root: the bundle that is run.
        settings: top-level keys and their values as run.
        overlays: configuration files merged over the bundle's ``train.yaml`` for this run.
        data_fingerprint: of the slice store.
        data: counts and spacings of the slices (`describe_data`), for the model card.

    Returns:
        The content of ``run.json``.
    """
    run, bundle = Path(output_dir).resolve(), Path(bundle_root).resolve()
    kept = {key: _plain(value) for key, value in settings.items() if key not in _PRIVATE}
    content = {
        "bundle": bundle.name,
        "settings": kept,
        "data_fingerprint": data_fingerprint,
        "data": _plain(data or {}),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
    }
    if process_rank() > 0:
        return content
    for folder in ("checkpoints", "configs", "figures", "logs", "models"):
        (run / folder).mkdir(parents=True, exist_ok=True)
    if run != bundle:
        _copy_configs(bundle, run, kept, overlays)
        for name in ("LICENSE", "docs/README.md", "docs/data_license.txt"):
            if (bundle / name).is_file():
                (run / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(bundle / name, run / name)
    write_json(run / "run.json", content)
    return content


def _copy_configs(bundle: Path, run: Path, settings: Mapping[str, Any], overlays: Sequence[str]) -> None:
    for source in sorted((bundle / "configs").iterdir()):
        target = run / "configs" / source.name
        if source.name == "metadata.json":
            write_json(target, _metadata(source, settings.get("classes")))
            continue
        if source.suffix not in {".yaml", ".yml"}:
            shutil.copyfile(source, target)
            continue
        if source.stem == "train" and overlays:
            content = ConfigParser.load_config_files([str(source), *overlays])
        else:
            content = ConfigParser.load_config_file(str(source))
        content.update({key: value for key, value in settings.items() if key in content})
        content.pop("_meta_", None)
        if "bundle_root" in content:
            content["bundle_root"] = str(run)
        write_text(target, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def _metadata(source: Path, classes: Sequence[str] | None) -> dict[str, Any]:
    """The bundle's metadata, with the outputs that this run's network has."""
    content: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    if classes:
        outputs = content["network_data_format"]["outputs"]["pred"]
        outputs["num_channels"] = len(classes)
        outputs["channel_def"] = {str(i): name for i, name in enumerate(classes)}
    return content


def _plain(value: Any) -> Any:
    """Tuples and paths as YAML and JSON know them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
