"""A run is itself a bundle: what is put into its folder when it starts."""

import json
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from medssl_monai.atomic import write_json, write_text
from medssl_monai.checkpoints.manifests import LAYOUTS
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.mappings import read_mapping
from medssl_monai.processes import process_count, process_rank
from medssl_monai.runs.settings import PLACES, TEXTS, literal
from medssl_monai.version import __version__

_PACKAGES = ("torch", "torchvision", "monai", "pytorch-ignite", "numpy", "timm")
# Where the data lie may name a patient, and is nobody's business once the run is handed on.
_PRIVATE = {*PLACES, *TEXTS, "resume", "overlays", "tracking_uri"}


def check_output(output_dir: str | Path, bundle_root: str | Path, bundle: str) -> None:
    """Refuse to write a run into a folder that holds something else; hidden files and empty folders do not count.

    Args:
        output_dir: the run's folder.
        bundle_root: the bundle that is run; it may be trained in place.
        bundle: its name.

    Raises:
        ConfigError: the folder holds files, and they are not a run of this bundle.
    """
    run = Path(output_dir).resolve()
    if run == Path(bundle_root).resolve() or not run.is_dir():
        return
    shown = (path for path in run.iterdir() if not path.name.startswith("."))
    held = sorted(path.name for path in shown if not path.is_dir() or any(path.iterdir()))
    if not held:
        return
    found = read_mapping(run / "run.json").get("bundle") if "run.json" in held else None
    if found != bundle:
        what = f"a run of {found}" if found else f"{', '.join(held[:3])}{' and more' if len(held) > 3 else ''}"
        raise ConfigError(
            f"{output_dir}: a run needs a folder of its own, or one where a run of {bundle} was stopped, found {what}; "
            "give another --out (output_dir)"
        )


def record_run(
    output_dir: str | Path,
    bundle_root: str | Path,
    settings: Mapping[str, Any],
    overlays: Sequence[str] = (),
    data_fingerprint: str | None = None,
    data: Mapping[str, Any] | None = None,
    bundle: str | None = None,
) -> dict[str, Any]:
    """Make ``output_dir`` a bundle that says how it came to be.

    Writes ``configs/`` (the bundle's own files with the settings as run), ``run.json`` (versions, state of the source
    code, settings with their seeds, data fingerprint), licence and README. Paths of data are left out, also where an
    overlay sets them. Of several processes the first writes.

    Args:
        output_dir: the run's folder; made if need be.
        bundle_root: the bundle that is run.
        settings: top-level keys and their values as run.
        overlays: configuration files merged over the bundle's ``train.yaml`` for this run.
        data_fingerprint: of the slice store.
        data: counts and spacings of the slices (`describe_data`), for the model card.
        bundle: its name, where its folder may have another; by default that of the folder.

    Returns:
        The content of ``run.json``.
    """
    run, root = Path(output_dir).resolve(), Path(bundle_root).resolve()
    kept = {key: _plain(value) for key, value in settings.items() if key not in _PRIVATE}
    content = {
        "bundle": bundle or root.name,
        "settings": kept,
        "data_fingerprint": data_fingerprint,
        "data": _plain(data or {}),
        "python": platform.python_version(),
        "processes": process_count(),
        "packages": {"medssl-monai": __version__, **{name: version(name) for name in _PACKAGES}},
        "git": git_state(Path(__file__).resolve().parents[2]),
    }
    if process_rank() > 0:
        return content
    write_json(run / "run.json", content)  # first: the folder is known as this run's, whenever it is stopped
    for folder in ("checkpoints", "configs", "figures", "logs", "models"):
        (run / folder).mkdir(parents=True, exist_ok=True)
    if run != root:
        copy_configs(root, run, kept, overlays, {"bundle_root": literal(run)})
        for name in ("LICENSE", "docs/README.md", "docs/data_license.txt"):
            if (root / name).is_file():
                (run / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, run / name)
    return content


def epoch_model(output_dir: str | Path, epoch: int) -> Path:
    """Where a fine-tuning run with ``keep_epochs`` keeps the network of an epoch, from 1."""
    return Path(output_dir) / "models" / f"epoch-{epoch:04d}.pt"


def kept_encoder(output_dir: str | Path, epoch: int) -> Path:
    """Where a pre-training run with ``keep_interval`` keeps the encoder of an epoch, from 1."""
    return Path(output_dir) / "models" / "kept" / f"epoch-{epoch:04d}.safetensors"


def git_state(checkout: Path) -> dict[str, Any] | None:
    """The commit of a git checkout, and whether its files differ from it; None for an installed wheel."""
    if not (checkout / ".git").exists():
        return None
    answers = []
    for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            command = ["git", "-C", str(checkout), *words]
            answers.append(subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout)
        except (OSError, subprocess.SubprocessError):
            return None
    return {"commit": answers[0].strip(), "changed": bool(answers[1].strip())}


def copy_configs(
    bundle: Path,
    target: Path,
    settings: Mapping[str, Any],
    overlays: Sequence[str] = (),
    places: Mapping[str, str] | None = None,
) -> None:
    """Write a bundle's ``configs/`` into another folder, with the settings of a run at their top level.

    Args:
        bundle: the bundle that was run.
        target: a bundle too, from now on.
        settings: keys that a file does not have are left out of it.
        overlays: files merged over ``train.yaml``; what they say of places is left out.
        places: values of keys that say where files lie, such as ``bundle_root``; None leaves the bundle's own.
    """
    for source in sorted((bundle / "configs").iterdir()):
        written = target / "configs" / source.name
        if source.name == "metadata.json":
            write_json(written, _metadata(source, settings))
            continue
        if source.suffix not in {".yaml", ".yml"}:
            written.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, written)
            continue
        content = own = ConfigParser.load_config_file(str(source))
        if source.stem == "train" and overlays:
            content = ConfigParser.load_config_files([str(source), *overlays])
            steps = ("imports", "initialize", "run", "finalize")
            content = {key: v for key, v in content.items() if key in own or key in steps or key.startswith("_")}
            content.update({key: own[key] for key in _PRIVATE if key in own})
        content.update({key: value for key, value in settings.items() if key in content})
        content.update({key: value for key, value in (places or {}).items() if key in content})
        content.pop("_meta_", None)
        write_text(written, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))


def _metadata(source: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The bundle's metadata, with the inputs and outputs that this run's network has."""
    content: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    outputs = content["network_data_format"]["outputs"]["pred"]
    if spacing := settings.get("channel_spacing_mm"):
        places = (f"{spacing:g} mm below", "itself", f"{spacing:g} mm above")
        named = {str(i): f"the slice {place}, windowed and normalised" for i, place in enumerate(places)}
        content["network_data_format"]["inputs"]["image"]["channel_def"] = named
    if classes := settings.get("classes"):
        outputs["num_channels"] = len(classes)
        outputs["channel_def"] = {str(i): name for i, name in enumerate(classes)}
        content["label_classes"] = ", ".join(classes)
    elif outputs["format"] == "latent":
        if layout := LAYOUTS.get(str(settings.get("arch"))):
            outputs["num_channels"] = layout.features
        content["pred_classes"] = f"{outputs['num_channels']} features of an image"
    return content


def _plain(value: Any) -> Any:
    """Tuples and paths as YAML and JSON know them."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def run_settings(run: Path) -> dict[str, Any]:
    """Settings of a fine-tuning run, from its ``configs/train.yaml``.

    Raises:
        CheckpointError: the folder is no finished fine-tuning run: files are missing, or it was stopped on its way.
    """
    config, model = run / "configs" / "train.yaml", run / "models" / "model.pt"
    if not config.is_file() or not model.is_file():
        missing = config if not config.is_file() else model
        raise CheckpointError(
            f"{run} is no finished fine-tuning run: {missing.relative_to(run)} is missing; give the --out folder of a "
            "completed `medssl finetune`"
        )
    settings = read_mapping(config)
    refuse_stopped(run, settings)
    return settings


def refuse_stopped(run: Path, settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a fine-tuning that was stopped on its way, which has a model too, its best so far.

    How far a run is stands in its checkpoint. Where there is none (a packed bundle, a run of the label server) or it
    tells nothing, the run is believed. `settings` are the run's, of which ``patience`` ends it early.
    """
    try:
        content = torch.load(run / "checkpoints" / "last.pt", map_location="cpu", weights_only=True, mmap=True)
        state = content["trainer"]
        wanted, best = int(state["max_epochs"]), int(state["best_metric_epoch"])
        done = int(state["iteration"]) // int(state["epoch_length"])
    except Exception:
        return
    patience = settings.get("patience")
    if done < wanted and not (patience and best != -1 and done - best >= patience):
        raise CheckpointError(
            f"{run} is no finished fine-tuning run: it stands at epoch {done} of {wanted}; the same command as before "
            f"carries on, and ends there if it is given max_epochs={done}"
        )
