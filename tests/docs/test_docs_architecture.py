"""The page on architecture: floors and routes are those of the code."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT
from tests.layout.test_layout import LAYERS, dotted, imported

PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
CONFIGS = ROOT / "bundles" / "ct_classification" / "configs"
ROUTES = re.findall(r"^[^\n]+\((\d+)\):\n\n(\| step \|.*?)\n(?:\n|\Z)", PAGE, re.MULTILINE | re.DOTALL)


def test_floors_are_those_of_the_layout_test() -> None:
    floors: list[set[str]] = []
    for number, names in re.findall(r"^\| (\d?) ?\| (`.*?`) \|", PAGE, re.MULTILINE):
        if number:
            floors.insert(0, set())
        floors[0] |= {name.strip("/") for name in re.findall(r"`([a-z_/]+)`", names)}
    assert floors == LAYERS


def files(table: str) -> list[Path]:
    """The files that a table names; a name without a folder is in the folder of the name before, or at the root."""
    found: list[Path] = []
    for name in re.findall(r"`([\w/.]+)`", table):
        folders = [CONFIGS] if name.endswith(".yaml") else [ROOT / "medssl_monai", ROOT]
        if found and "/" not in name and not name.endswith(".yaml"):
            folders.insert(0, found[-1].parent)
        places = [folder / (name if name.endswith(".yaml") else f"{name}.py") for folder in folders]
        found.append(next(place.resolve() for place in places if place.is_file()))
    return found


def named_in(file: Path) -> set[str]:
    """Modules and packages that a file imports, or that hold what a configuration names."""
    if file.suffix == ".py":
        return imported(file)
    return {name.rsplit(".", 1)[0] for name in re.findall(r"medssl_monai(?:\.\w+)+", file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("count, table", ROUTES)
def test_routes_are_followed_by_imports(count: str, table: str) -> None:
    route = files(table)
    assert len(route) == len(set(route)) == int(count)
    reached = set().union(*(named_in(file) for file in route))
    for file in route[1:]:
        if file.suffix == ".py":  # what a package offers at its face may stand in any of its modules
            assert {dotted(file), dotted(file.parent)} & reached, file


def test_there_are_three_routes() -> None:
    assert [int(count) <= most for (count, _), most in zip(ROUTES, (30, 22, 26), strict=True)] == [True] * 3
