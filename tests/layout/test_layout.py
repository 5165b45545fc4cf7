"""The shape of the repository: what is packaged, what imports what, how modules are named."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "medssl_monai"

# Each layer may import from itself and from the layers below; the lowest know none of the others.
LAYERS = [
    {"errors", "version", "resources", "atomic"},
    {"ingest", "transforms", "checkpoints", "phantom", "phantom_anatomy", "phantom_dicom", "phantom_organs"},
    {"sample_data", "sample_download"},
    {"losses", "networks", "optimizers"},
    {"methods"},
    {"engines", "handlers", "downstream"},
    {"bundle_pack", "demo"},
    {"cli", "label"},
    {"__main__"},
]
BASE = {"ingest", "transforms", "checkpoints"}


def modules() -> list[Path]:
    found = [p for p in PACKAGE.rglob("*.py") if "transforms" not in p.relative_to(PACKAGE).parts]
    return sorted(found + list((ROOT / "transforms").rglob("*.py")))


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "transforms":
        return "transforms"
    return relative.parts[1].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    parts = {name.split(".")[1] for name in names if name.startswith("medssl_monai.")}
    return {p for p in parts if (PACKAGE / p).exists() or (PACKAGE / f"{p}.py").exists() or (ROOT / p).exists()}


def layer_of(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    for other in imported_parts(path) - {part}:
        assert layer_of(other) <= layer_of(part), f"{part} imports {other}, which lies above it"
        if part in BASE:
            assert other not in BASE, f"{part} and {other} are both at the base and must not know each other"


def test_every_part_has_a_layer() -> None:
    parts = {part_of(p) for p in modules()} - {"__init__"}
    assert parts <= set[str]().union(*LAYERS)


def test_setup_cfg_lists_the_tree() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {"medssl_monai", "medssl_monai.bundles", "medssl_monai.configs"}
    for init in [*PACKAGE.rglob("__init__.py"), *(ROOT / "transforms").rglob("__init__.py")]:
        folder = init.parent.relative_to(ROOT)
        if folder.parts[:2] != ("medssl_monai", "transforms"):
            found.add(".".join(folder.parts if folder.parts[0] == "medssl_monai" else ("medssl_monai", *folder.parts)))
    assert listed == found


def test_transforms_is_a_relative_link() -> None:
    link = PACKAGE / "transforms"
    assert link.is_symlink()
    assert link.readlink() == Path("../transforms")


def test_no_module_is_named_for_nothing() -> None:
    assert not {p.stem for p in modules()} & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_what_users_see_at_the_root() -> None:
    for name in ("medssl_monai", "bundles", "transforms", "tests", "configs", "setup.cfg", "README.md", "LICENSE"):
        assert (ROOT / name).exists(), name
