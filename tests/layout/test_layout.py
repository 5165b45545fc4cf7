"""The shape of the repository: what is packaged, what imports what, how modules are named."""

import ast
import configparser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "medssl_monai"

# Each package or root module stands on one floor and imports only from the floors below it.
LAYERS = [
    {
        "errors",
        "version",
        "resources",
        "atomic",
        "mappings",
        "page",
        "windows",
        "processes",
        "parent",
        "progress",
        "cluster",
        "plain_text",
        "drawing",
    },
    {"store", "statistics", "transforms", "checkpoints", "samples", "losses", "optimizers"},
    {"ingest", "networks"},
    {"labels", "methods", "runs"},
    {"classify", "engines", "terminal"},
    {"handlers", "experiment"},
    {"demo", "label_server"},
    {"cli"},
    {"__main__"},
]
GROUND = {
    *((part, "errors") for part in ("resources", "cluster", "mappings", "windows")),
    *(("windows", "resources"), ("drawing", "atomic"), ("drawing", "plain_text")),
}
"""On the ground floor everything may import the exceptions; the window presets are a file of `resources`."""


def modules() -> list[Path]:
    found = [p for p in PACKAGE.rglob("*.py") if "transforms" not in p.relative_to(PACKAGE).parts]
    return sorted(found + list((ROOT / "transforms").rglob("*.py")))


def part_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "transforms":
        return "transforms"
    return relative.parts[1].removesuffix(".py")


def dotted(path: Path) -> str:
    relative = path.relative_to(ROOT).with_suffix("")
    parts = relative.parts if relative.parts[0] == "medssl_monai" else ("medssl_monai", *relative.parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in modules()}


def imported(path: Path) -> set[str]:
    """Our modules that a file imports anywhere: at its head, inside functions, for type checkers."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= inside & MODULES.keys() or {node.module}
    return names & MODULES.keys()


def layer_of(part: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part in layer)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    for other in {name.split(".")[1] for name in imported(path) if "." in name} - {part}:
        if (part, other) not in GROUND:
            assert layer_of(other) < layer_of(part), f"{part} imports {other}, which does not lie below it"


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions count too: a circle that is only opened late is still one."""
    below = {name: imported(path) - {name} for name, path in MODULES.items() if name != "medssl_monai"}
    while leaves := {name for name, others in below.items() if not others & below.keys()}:
        below = {name: others for name, others in below.items() if name not in leaves}
    assert not below, f"import circle among {sorted(below)}"


def test_every_part_has_a_layer() -> None:
    parts = {part_of(p) for p in modules()} - {"__init__"}
    assert parts <= set[str]().union(*LAYERS)


def test_setup_cfg_lists_the_tree() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {"medssl_monai", "medssl_monai.bundles", "medssl_monai.configs", "medssl_monai.encoders"}
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
    for name in (
        "medssl_monai",
        "bundles",
        "transforms",
        "tests",
        "configs",
        "encoders",
        "setup.cfg",
        "README.md",
        "LICENSE",
    ):
        assert (ROOT / name).exists(), name
