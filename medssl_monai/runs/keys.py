"""The keys of the shipped bundles: what each means, and which keys of a configuration are none of them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import yaml
from monai.bundle import ConfigParser
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from medssl_monai.errors import ConfigError, suggestion
from medssl_monai.resources import bundle_dir

FOR_BUNDLES = "for_bundles"
"""The key with which an overlay names the bundles that it is for; without it an overlay is for all."""

# Files of a bundle that run together, by a key that only they have at the top level.
_WORKFLOWS = {"train": ("train", "evaluate", "multi_gpu_train"), "evaluator": ("inference", "predict")}
_TRACKING: Any = DEFAULT_MLFLOW_SETTINGS["configs"]
MONAI_KEYS = {"imports", "initialize", "run", "finalize", FOR_BUNDLES, *_TRACKING}
"""Keys that MONAI and its apps add."""


@dataclass(frozen=True)
class BundleKey:
    """A key that users may set: its name, its default as YAML, and the comment behind it, which may be empty."""

    name: str
    default: str
    meaning: str


def bundle_keys(bundle: str) -> list[BundleKey]:
    """The keys of a bundle's ``train.yaml``, in its order: those above the first component.

    Raises:
        ConfigError: there is no such bundle.

    Example:
        >>> bundle_keys("ct_ssl_spark")[5]
        BundleKey(name='seed', default='0', meaning='')
    """
    text = (bundle_dir(bundle) / "configs" / "train.yaml").read_text(encoding="utf-8")
    lines = text.splitlines()
    found = []
    document: Any = yaml.compose(text, yaml.SafeLoader)
    for key, value in document.value:
        if isinstance(value, yaml.MappingNode):
            break
        if key.value == "imports":
            continue
        line = lines[key.start_mark.line]
        comment = re.search(r"(?:^|\s)# (.*)$", line)
        default = text[value.start_mark.index : value.end_mark.index].strip()
        if value.start_mark.line > key.start_mark.line:  # a list in lines of its own, on one line here
            content = yaml.safe_load(default)
            default = yaml.safe_dump(content, default_flow_style=True, width=10**6).strip()
        found.append(BundleKey(key.value, default, comment[1] if comment else ""))
    return found


def check_keys(content: Mapping[str, Any], bundle: str, source: str = "the configuration") -> None:
    """Refuse a configuration that is for other bundles, or has keys that its bundle has not.

    A new key may stand in a component, as an argument of it; one that begins with an underscore may stand anywhere.

    Args:
        content: a bundle's configuration with overlays and overrides merged into it.
        bundle: the bundle that is run, such as ``ct_ssl_spark``.
        source: what an error names, such as the overlay's file.

    Raises:
        ConfigError: the first such key, with the most similar one that there is.
    """
    meant = content.get(FOR_BUNDLES)
    if meant is not None and bundle not in meant:
        raise ConfigError(
            f"{source} is for {', '.join(meant)}, and {bundle} is run; leave it out or take another configuration"
        )
    workflow = next((name for name in _WORKFLOWS if name in content), "train")
    # An overlay for several bundles may set keys that only some of them have.
    known: dict[str, Any] = {}
    for name in (*(meant or ()), bundle):
        known |= _shipped(name, workflow)
    for key, names in _unknown(content, known):
        raise ConfigError(
            f"{source}: {key!r} is not a key of {bundle}{suggestion(key, names)}; `medssl keys {bundle}` lists the keys"
        )


@lru_cache(maxsize=16)
def _shipped(bundle: str, workflow: str) -> dict[str, Any]:
    """The merged configurations of a shipped bundle that may run together."""
    folder = bundle_dir(bundle) / "configs"
    files = [folder / f"{name}.yaml" for name in _WORKFLOWS[workflow]]
    merged: dict[str, Any] = ConfigParser.load_config_files([str(file) for file in files if file.is_file()])
    return merged


def _unknown(content: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, list[str]]]:
    """Keys of `content` that `known` lacks, each with the full names of those beside it."""
    for key, value in content.items():
        if key.startswith("_") or (not path and key in MONAI_KEYS):
            continue
        if key not in known:
            if "_target_" not in known:
                yield path + key, [path + name for name in known]
            continue
        there = known[key]
        same = isinstance(value, Mapping) and isinstance(there, Mapping)
        if same and value.get("_target_") == there.get("_target_"):
            yield from _unknown(value, there, f"{path}{key}#")
