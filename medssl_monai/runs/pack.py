"""A run's weights and a shipped bundle's configurations, together in one zip that runs anywhere.

``NAME.zip`` holds one folder ``NAME`` after MONAI's specification: ``configs/``, ``models/model.pt`` (a flat state
dict), ``docs/``, ``LICENSE``; and ``run.json`` and ``SHA256SUMS``. The same run gives the same bytes.
"""

import json
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from medssl_monai.atomic import file_sha256, write_atomically, write_json, write_text
from medssl_monai.checkpoints.files import read_weights
from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.mappings import read_run_record
from medssl_monai.networks.classifier import classifier, load_classifier
from medssl_monai.resources import bundle_dir, resource_dir
from medssl_monai.runs.folder import copy_configs, refuse_stopped

CLASSIFICATION = "ct_classification"
BESIDE = ("encoder.safetensors", "confidence.json", "reference.safetensors")
"""What a run may have beside ``model.pt``; the last is of a fine-tuned run and holds features of training slices."""
# Zip's first moment: the archive tells no time of packing.
_MOMENT = (1980, 1, 1, 0, 0, 0)
# What of run.json is handed on: nothing there names data.
_RECORD = ("bundle", "settings", "data_fingerprint", "data", "python", "processes", "packages", "git")


@dataclass(frozen=True)
class BundleSummary:
    """A shipped bundle: its name, version, what it is for, and its folder."""

    name: str
    version: str
    description: str
    path: Path


def shipped_bundles() -> list[BundleSummary]:
    """The bundles of this installation, by name."""
    found = []
    for folder in sorted(resource_dir("bundles").iterdir()):
        meta = folder / "configs" / "metadata.json"
        if meta.is_file():
            content = json.loads(meta.read_text(encoding="utf-8"))
            found.append(BundleSummary(folder.name, content["version"], content["description"], folder))
    return found


def pack_bundle(name: str, run: str | Path, out: str | Path, *, licence: str | None = None) -> str:
    """Write a bundle with a run's weights as a zip, and ``OUT.sha256`` beside it.

    Configurations are the shipped bundle's, with the run's settings; all places are relative to ``bundle_root``. The
    weights are proven to compute what the run's network computes, and the model card says so.

    Args:
        name: of a shipped bundle, such as ``ct_classification``.
        run: folder of a finished run of that bundle.
        out: zip to write.
        licence: terms of the weights, for the model card.

    Returns:
        SHA-256 of the zip, in hex.

    Raises:
        ConfigError: there is no such bundle, or `out` is no ``.zip``.
        CheckpointError: `run` is no finished run of that bundle, or its weights are not those of the bundle's network.
    """
    bundle, run, out = bundle_dir(name), Path(run), Path(out)
    if out.suffix != ".zip":
        raise ConfigError(f"--out {out.name}: a packed bundle is a .zip file; give a name such as {name}.zip")
    record = _record(name, run)
    _check_weights(name, run, record)
    with tempfile.TemporaryDirectory(prefix="medssl-pack-") as folder:
        target = Path(folder) / name
        _write_configs(bundle, target, record["settings"])
        export_run(run, target / "models" / "model.pt", "torchvision", head=name == CLASSIFICATION, licence=licence)
        (target / "models" / "model.report.json").unlink()
        (target / "docs").mkdir()
        (target / "models" / "model.card.md").replace(target / "docs" / "model_card.md")
        for file in BESIDE:
            if (run / "models" / file).is_file():
                shutil.copyfile(run / "models" / file, target / "models" / file)
        for part in ("LICENSE", "docs/README.md"):
            shutil.copyfile(bundle / part, target / part)
        write_json(target / "run.json", {key: record[key] for key in _RECORD if key in record})
        _write_sums(target)
        write_atomically(out, lambda path: _write_zip(path, target))
    digest = file_sha256(out)
    write_text(out.with_name(out.name + ".sha256"), f"{digest}  {out.name}\n")
    return digest


def _record(name: str, run: Path) -> dict[str, Any]:
    """The run's ``run.json``, of a run of this bundle."""
    if run.is_file():
        raise CheckpointError(
            f"{run.name}: a bundle is packed from a run's folder, which tells how to prepare images, found a file "
            f"of weights; give the --out folder of `medssl {_verb(name)}`"
        )
    file = run / "run.json"
    if not file.is_file():
        raise CheckpointError(f"{run}: no run (run.json is missing); give the --out folder of `medssl {_verb(name)}`")
    record = read_run_record(run)
    found = record.get("bundle")
    if found != name:
        raise CheckpointError(
            f"{run}: must be a run of {name}, found one of {found}; pack {found}, or give a run of `medssl "
            f"{_verb(name)}`"
        )
    return record


def _verb(name: str) -> str:
    return "finetune" if name == CLASSIFICATION else f"pretrain {name.removeprefix('ct_ssl_')}"


def _check_weights(name: str, run: Path, record: dict[str, Any]) -> None:
    """The weights are there, and are those of the network that the configurations describe."""
    settings = record["settings"]
    file = run / "models" / ("model.pt" if name == CLASSIFICATION else "encoder.safetensors")
    if not file.is_file():
        raise CheckpointError(
            f"{run}: a bundle without weights is not packed, and {file.parent.name}/{file.name} is missing; let it "
            "finish"
        )
    if name == CLASSIFICATION:
        refuse_stopped(run, settings)
    else:
        _, found = load_encoder(file)
        if found.arch != settings["arch"]:
            raise CheckpointError(f"{file.name}: the run is of a {settings['arch']}, found weights of a {found.arch}")
        return
    content, _ = read_weights(file)
    if "fc.weight" not in content:
        raise CheckpointError(
            f"{file.name}: a classifier needs its classification layer fc, found an encoder alone; fine-tune it first "
            "with `medssl finetune --encoder`"
        )
    network = classifier(settings["arch"], len(settings["classes"]))
    load_classifier(network, file)
    broken = [key for key, value in network.state_dict().items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(f"{file.name}: weights must be finite, found NaN or infinity in {broken[0]}; train again")


def _write_configs(bundle: Path, target: Path, settings: dict[str, Any]) -> None:
    """As run, but relative to the bundle's root; with what MONAI's `load` and MONAI Label's stock app look for."""
    places: dict[str, Any] = {"bundle_root": "."}
    copy_configs(bundle, target, settings, places=places)
    # A bundle is trained in place by MONAI Label, anew at each request, and goes on from the weights packed.
    retrained: dict[str, Any] = {**places, "output_dir": "$@bundle_root", "resume": False, "num_workers": 0}
    if bundle.name == CLASSIFICATION:
        retrained["encoder_weights"] = "$@bundle_root + '/models/model.pt'"
    train = target / "configs" / "train.yaml"
    content = yaml.safe_load(train.read_text(encoding="utf-8"))
    write_text(train, yaml.safe_dump({**content, **retrained}, sort_keys=False, allow_unicode=True, width=120))
    # `monai.bundle.load` looks for JSON alone.
    inference = yaml.safe_load((target / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    write_json(target / "configs" / "inference.json", inference)


def _write_sums(target: Path) -> None:
    files = sorted(p for p in target.rglob("*") if p.is_file())
    lines = [f"{file_sha256(p)}  {p.relative_to(target).as_posix()}\n" for p in files]
    write_text(target / "SHA256SUMS", "".join(lines))


def _write_zip(path: Path, target: Path) -> None:
    """Stored, sorted, of one moment and one mode: the bytes depend on the contents alone."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(p for p in target.rglob("*") if p.is_file()):
            entry = zipfile.ZipInfo(file.relative_to(target.parent).as_posix(), _MOMENT)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            archive.writestr(entry, file.read_bytes())
