"""Which code made a result: so that a study can tell when not all of its trainings were made by the same code.

The imports tell which modules those are: a training runs the module that starts it, those that its configuration files
name, and all that these import. No list has to be kept, and a module that moves is found where it is.
"""

import ast
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

import medssl_monai
from medssl_monai.version import __version__

LIBRARIES = ("torch", "torchvision", "monai", "pytorch-ignite", "numpy", "scikit-learn")
# Not followed: these decide no number of a training. The store and the study's inputs have fingerprints of their own.
NOT_FOLLOWED = (
    "medssl_monai.ingest",
    "medssl_monai.samples",
    "medssl_monai.experiment.encoders",
    "medssl_monai.experiment.inputs",
    "medssl_monai.experiment.made_by",
    "medssl_monai.classify.explain",
    "medssl_monai.classify.figures",
    "medssl_monai.classify.overview",
    "medssl_monai.handlers.progress_bar",
)
OURS = re.compile(r"\bmedssl_monai(?:\.\w+)+")


def made_by(start: str, configurations: Sequence[Path]) -> dict[str, str]:
    """Versions of this package and of the libraries, and a hash of the code that a training runs.

    The hash is over the syntax of every statement, function and class. It does not depend on comments, docstrings and
    layout, nor on which module a function lies in.

    Args:
        start: module that starts the training.
        configurations: the training's YAML files.
    """
    # Which of our classes the files choose; a module that they import is nothing but a place.
    parts = {name.rpartition(".")[2] for name in _named(configurations) if not _file(name)}
    for file in modules_run(start, configurations):
        parts |= _meaning(file)
    code = hashlib.sha256(json.dumps(sorted(parts)).encode()).hexdigest()[:16]
    return {"medssl-monai": __version__, **{name: version(name) for name in LIBRARIES}, "code": code}


def settings_of(configurations: Sequence[Path]) -> list[Any]:
    """What configuration files set, without the names of this package's modules and classes, which may change.

    They are masked in ``_target_`` and expressions, and ``imports`` are left out. Names of other packages stay: another
    optimizer of torch is another setting.
    """
    return [_masked(_read(path)) for path in configurations]


def modules_run(start: str, configurations: Sequence[Path]) -> list[Path]:
    """Files of this package that a training runs, sorted; see `made_by`."""
    waiting, found = {start} | _named(configurations), set[Path]()
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None and name.count(".") > 1:  # a class or a function: its module
            waiting.add(name.rpartition(".")[0])
        elif file and file not in found and not f"{name}.".startswith(tuple(f"{one}." for one in NOT_FOLLOWED)):
            found.add(file)
            waiting |= _imported(file)
    return sorted(found)


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _named(configurations: Sequence[Path]) -> set[str]:
    return {name for path in configurations for name in OURS.findall(json.dumps(_read(path), default=str))}


def _masked(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _masked(value) for key, value in content.items() if key != "imports"}
    if isinstance(content, list):
        return [_masked(value) for value in content]
    return OURS.sub("medssl_monai", content) if isinstance(content, str) else content


def _file(name: str) -> Path | None:
    """Where a module of this package lies; None where the name is not one."""
    path = Path(medssl_monai.__file__).parent.joinpath(*name.split(".")[1:])
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


@cache
def _imported(file: Path) -> frozenset[str]:
    """Names that a module imports from this package, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in names if OURS.fullmatch(name))


@cache
def _meaning(file: Path) -> frozenset[str]:
    """Syntax trees of a module's statements, of each as often as once."""
    return frozenset(ast.dump(node) for node in _Meaning().visit(ast.parse(file.read_bytes())).body)


class _Meaning(ast.NodeTransformer):
    """Takes out docstrings and the places that our own names are imported from."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.ImportFrom]:
        if not OURS.match(f"{node.module}.x"):
            return [ast.ImportFrom(node.module, [alias], node.level) for alias in node.names]
        return [ast.ImportFrom("medssl_monai", [alias], 0) for alias in node.names if alias.asname]
