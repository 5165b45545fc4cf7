"""Every configuration that is shipped: its targets exist, take the arguments given, and its metadata is complete."""

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ComponentLocator, ConfigParser, verify_net_in_out

from medssl_monai.errors import ConfigError
from medssl_monai.resources import bundle_dir, config_file, resource_dir
from medssl_monai.runs.folder import record_run
from medssl_monai.runs.keys import check_keys

BUNDLES = sorted(p for p in resource_dir("bundles").iterdir() if (p / "configs").is_dir())
FILES = [f for b in BUNDLES for f in sorted((b / "configs").glob("*.yaml"))]
# The keys that all bundles have at the top level.
COMMON = [
    "bundle_root",
    "dataset_dir",
    "output_dir",
    "ckpt_dir",
    "device",
    "seed",
    "arch",
    "image_size",
    "batch_size",
    "max_epochs",
    "epoch_length",
    "num_workers",
    "learning_rate",
    "amp",
    "window",
    "encoder_weights",
    "resume",
]


def components(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node
        for value in node.values():
            yield from components(value)
    elif isinstance(node, list):
        for value in node:
            yield from components(value)


def located(target: str) -> Any:
    found = ComponentLocator().get_component_module_name(target)
    module, name = (found, target) if isinstance(found, str) and found else target.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parts[-3]}/{f.name}")
def test_targets_exist_and_take_their_arguments(file: Path) -> None:
    for component in components(ConfigParser.load_config_file(str(file))):
        target = component["_target_"]
        if target.startswith("$"):
            continue  # an expression, which running the bundle tests
        given = {k: None for k in component if not k.startswith("_")}
        inspect.signature(located(target)).bind_partial(**given)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f"{f.parts[-3]}/{f.name}")
def test_no_yaml_traps(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r":\s*\d+e-?\d+\s*$", text, re.MULTILINE), "YAML reads 1e-4 as text; write 1.0e-4"
    for value in leaves(yaml.safe_load(text)):
        # MONAI turns '#' into '::' in strings, and cannot evaluate `import` beside a reference.
        assert not (isinstance(value, str) and value.startswith("$") and "import" in value and "@" in value), value


def leaves(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for value in node.values():
            yield from leaves(value)
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value)
    else:
        yield node


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.name)
def test_every_bundle_has_the_common_keys(bundle: Path) -> None:
    assert set(COMMON) <= set(ConfigParser.load_config_file(str(bundle / "configs" / "train.yaml")))


# Plans of studies and the table of windows lie beside the overlays.
OVERLAYS = sorted(p.stem for p in resource_dir("configs").glob("*.yaml") if not p.stem.startswith(("study", "windows")))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_change_only_what_is_there(overlay: str) -> None:
    content = ConfigParser.load_config_file(str(config_file(overlay)))
    for name in content.get("for_bundles") or [b.name for b in BUNDLES]:
        files = [str(bundle_dir(name) / "configs" / "train.yaml"), str(config_file(overlay))]
        check_keys(ConfigParser.load_config_files(files), name, overlay)
    assert "for_bundles" in content or overlay == "ddp", "an overlay says what it is for; ddp is for all"


@pytest.mark.parametrize("name", ["windows", "study_demo"])
def test_other_configurations_are_no_overlays(name: str) -> None:
    with pytest.raises(ConfigError, match="neither a YAML file nor one of"):
        config_file(name)


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.name)
def test_metadata_is_complete(bundle: Path) -> None:
    meta = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    required = [
        "schema",
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "required_packages_version",
        "task",
        "description",
        "authors",
        "copyright",
        "network_data_format",
        "changelog",
        "name",
    ]
    assert set(required) <= set(meta)
    assert meta["version"] in meta["changelog"]
    tensors = [*meta["network_data_format"]["inputs"].items(), *meta["network_data_format"]["outputs"].items()]
    assert [name for name, _ in tensors] == ["image", "pred"]
    for _, tensor in tensors:
        assert {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"} <= set(tensor)
    assert (bundle / "LICENSE").is_file()
    assert (bundle / "docs" / "README.md").is_file()
    assert not list((bundle / "models").glob("*")), "weights do not belong into git"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda b: b.name)
def test_network_takes_and_gives_what_the_metadata_say(bundle: Path) -> None:
    configs = bundle / "configs"
    verify_net_in_out("network_def", str(configs / "metadata.json"), str(configs / "inference.yaml"), device="cpu")


def test_inference_needs_nothing_of_ours() -> None:
    text = (bundle_dir("ct_classification") / "configs" / "inference.yaml").read_text(encoding="utf-8")
    code = [line for line in text.splitlines() if not line.startswith("#")]
    assert not any("medssl" in line for line in code)


def test_a_run_records_itself_without_the_place_of_the_data(tmp_path: Path) -> None:
    settings = {"image_size": 96, "classes": ["a", "b"], "dataset_dir": "/archive/DOE^JANE", "store_dir": "/archive"}
    record_run(tmp_path / "run", bundle_dir("ct_classification"), settings, data_fingerprint="f")
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or "/archive" not in path.read_text(encoding="utf-8")
    config = yaml.safe_load((tmp_path / "run" / "configs" / "inference.yaml").read_text(encoding="utf-8"))
    assert config["image_size"] == 96
    assert config["classes"] == ["a", "b"]
    meta = json.loads((tmp_path / "run" / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert meta["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "a", "1": "b"}


def test_unknown_bundles_and_overlays_are_named() -> None:
    with pytest.raises(ConfigError, match="ct_ssl_spark"):
        bundle_dir("ct_ssl_magic")
    with pytest.raises(ConfigError, match="demo"):
        config_file("dmeo")
    with pytest.raises(ConfigError, match="does not exist"):
        config_file("no/such/file.yaml")
