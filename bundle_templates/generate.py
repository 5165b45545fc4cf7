"""Write the files of bundles/ that repeat one another: ``make bundles``. How to change one is in docs/bundles.md."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

HERE = Path(__file__).resolve().parent
METHODS = ("byol", "moco", "spark", "swav")
# Bundle: its own values, and the folders of its files; of two files of one name the later folder has precedence.
BUNDLES = {
    **{f"ct_ssl_{name}": (f"{name}.yaml", ["every_bundle", "pretraining", name]) for name in METHODS},
    "ct_classification": ("classification.yaml", ["every_bundle", "classification"]),
}
# What a method may leave open.
DEFAULTS = {
    "open_note": "the method",
    "arch": "resnet50 # resnet18, resnet34 or resnet50",
    "image_size": "224 # pixels",
    "max_epochs": 300,
    "network": "",
    "method_extra": "",
    "components": "",
    "takes_partners": True,
    "weight_decay": "'@weight_decay'",
    "handlers": "",
    "channels": "view_channels(@window, @mean, @std, @channel_spacing_mm)",
    "recorded": {},
    "also_recorded": {},
}
# Keys that a run does not record: they say where things lie and how it carries on, not what it computes.
NOT_RECORDED = {
    *("bundle_root", "dataset_dir", "output_dir", "ckpt_dir", "store_dir", "cache_dir", "encoder_weights", "device"),
    *("patient_from", "patients"),
    *(
        "resume",
        "check_weights",
        "confidence",
        "audit",
        "keep_epochs",
        "leave_out",
        "learning_rate_short",
        "probe_labels",
        "redundancy_encoder",
    ),
    *("overlays", "tracking", "save_execute_config"),
}
MIRROR = "<settings>"  # where they stand in a template that is not finished


def generated() -> Iterator[tuple[Path, str]]:
    """Every generated file and its content; paths are relative to the root of the repository."""
    for bundle, (values, folders) in BUNDLES.items():
        own = {**DEFAULTS, "bundle": bundle, **yaml.safe_load((HERE / values).read_text(encoding="utf-8"))}
        sources = {file.name.removesuffix(".jinja"): file for name in folders for file in (HERE / name).glob("*")}
        for name, source in sorted(sources.items()):
            yield Path("bundles", bundle, "configs", name), content_of(source, own, values)
    yield Path("configs", "ddp.yaml"), content_of(HERE / "every_bundle" / "multi_gpu_train.yaml", {}, "")


def content_of(source: Path, own: Mapping[str, Any], values: str) -> str:
    """One file: a template filled in, metadata with the bundle's own, or a file as it stands."""
    if source.name == "metadata.json":
        metadata = merged(json.loads(source.read_text(encoding="utf-8")), own["metadata"])
        return json.dumps(metadata, indent=4) + "\n"
    origin = f"bundle_templates/{source.relative_to(HERE)}"
    if source.suffix != ".jinja":
        return f"# Made by `make bundles` from {origin}.\n" + source.read_text(encoding="utf-8")
    texts = {key: value.rstrip() if isinstance(value, str) else value for key, value in own.items()}
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    text = environment.get_template(str(source.relative_to(HERE))).render(texts, settings=MIRROR)
    text = text.replace(MIRROR, mirror(text, own))
    return f"# Made by `make bundles` from {origin} and {values}.\n" + text


def mirror(text: str, own: Mapping[str, Any]) -> str:
    """What `record_run` keeps: the keys above a configuration's first component, each with the value as run."""
    recorded: dict[str, str] = {}
    for key, value in yaml.safe_load(text).items():
        if isinstance(value, dict):
            break
        if key != "imports" and key not in NOT_RECORDED:
            recorded[key] = own["recorded"].get(key, f"'@{key}'")
    recorded |= own["also_recorded"]
    return "\n    ".join(f"{key}: {value}" for key, value in recorded.items())


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `own` in their places, at every depth; lists are put before those of `base`."""
    result = dict(base)
    for key, value in own.items():
        if isinstance(value, dict):
            value = merged(result.get(key, {}), value)
        elif isinstance(value, list) and key == "references":
            value = [*value, *result[key]]
        result[key] = value
    return result


def main() -> None:
    """Write what differs, and say so."""
    for path, content in generated():
        target = HERE.parent / path
        if not target.is_file() or target.read_text(encoding="utf-8") != content:
            target.write_text(content, encoding="utf-8")
            sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
