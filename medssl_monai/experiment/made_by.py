"""Which code made a result: so that a study can tell when its trainings are not all of one making."""

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import medssl_monai
from medssl_monai.resources import resource_dir
from medssl_monai.version import __version__

LIBRARIES = ("torch", "torchvision", "monai", "pytorch-ignite", "numpy", "scikit-learn")
# What decides a training's numbers once the store is there. The store has a fingerprint of its own, and pictures and
# reports are drawn again whenever a study ends.
FOLDERS = ("checkpoints", "engines", "handlers", "networks")
PRETRAINING = ("losses", "methods", "optimizers")
FILES = {
    "store": ("dataset", "reader"),
    "labels": ("queries", "subsets", "table"),
    "statistics": ("calibration", "metrics", "multilabel", "temperature"),
    "classify": (
        *("answers", "classes", "evaluate", "features", "finetune", "forward", "labelled_data", "listed_data"),
        *("predictions", "probes", "pictures/data", "pictures/published", "pictures/table", "pictures/view"),
    ),
    "experiment": ("cells",),
}


@lru_cache(maxsize=2)
def made_by(pretraining: bool = False) -> dict[str, str]:
    """Versions of this package and of the libraries, and a hash of the code that a training runs.

    The hash is over the syntax: comments, docstrings and layout take no part.

    Args:
        pretraining: whether the code of the pre-training methods takes part.
    """
    package = Path(medssl_monai.__file__).parent
    folders = FOLDERS + (PRETRAINING if pretraining else ())
    files = [file for name in folders for file in (package / name).rglob("*.py")]
    files += [package / folder / f"{name}.py" for folder, names in FILES.items() for name in names]
    files += (resource_dir("configs").parent / "transforms").glob("*.py")
    digest = hashlib.sha256()
    for file in sorted(set(files), key=lambda f: (f.parent.name, f.name)):
        digest.update(file.name.encode() + _meaning(file).encode())
    libraries = {name: version(name) for name in LIBRARIES}
    return {"medssl-monai": __version__, **libraries, "code": digest.hexdigest()[:16]}


def _meaning(file: Path) -> str:
    """A file's syntax tree without docstrings."""
    tree = ast.parse(file.read_bytes())
    for node in _documented(ast.walk(tree)):
        node.body = node.body[1:]
    return ast.dump(tree)


def _documented(nodes: Iterable[ast.AST]) -> list[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in nodes if isinstance(node, kinds) and ast.get_docstring(node, clean=False) is not None]
