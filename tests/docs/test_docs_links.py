"""Links, anchors, pictures and make targets of every page lead somewhere; every page is in the site's contents."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml

import medssl_monai
from tests.docs.pages import DOCS, PAGES, ROOT, blocks

LARGEST = 150_000  # bytes a picture


def prose(page: Path) -> str:
    """The page without its fenced blocks and code in backticks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as Python-Markdown's toc names them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    plain = [unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode() for title in titles]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        target, _, anchor = link.partition("#")
        file = page.parent / target if target else page
        assert file.exists(), link
        if DOCS in page.parents:
            assert DOCS in file.resolve().parents, f"{link} leads out of the site"
        if anchor:
            assert anchor in anchors(file), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z][a-z-]+)(?: |`|$)", "\n".join(blocks(page)), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_pictures_are_small_described_and_used() -> None:
    used = set()
    for page in DOCS.rglob("*.md"):
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert len(words.split()) >= 5, f"{page.name}: {target} has no description"
            used.add((page.parent / target).resolve())
    pictures = {path for path in (DOCS / "images").iterdir() if path.suffix in (".png", ".svg", ".jpg")}
    assert pictures <= used
    for path in pictures:
        assert path.stat().st_size < LARGEST, path.name


def contents(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in contents(part)]


def test_every_page_is_in_the_contents() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = contents(site["nav"])
    assert len(listed) == len(set(listed))
    assert set(listed) >= {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_the_reference_names_modules_that_exist() -> None:
    for page in (DOCS / "reference").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        modules = re.findall(r"^::: medssl_monai\.(\S+)$", text, re.MULTILINE)
        assert modules == re.findall(r"^## (\S+)$", text, re.MULTILINE), page.name
        for name in modules:
            assert (ROOT / "medssl_monai" / Path(*name.split("."))).with_suffix(".py").is_file(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_of_the_code_that_a_page_names_exist(page: Path) -> None:
    for name in re.findall(r"`([a-z_0-9/]+\.py)`", page.read_text(encoding="utf-8")):
        if "/" in name:
            assert (ROOT / name).is_file() or (ROOT / "medssl_monai" / name).is_file(), name


def test_the_reference_lists_the_public_names() -> None:
    page = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    table = "".join(re.findall(r"^\| (`.*?) \|", page, re.MULTILINE))
    assert sorted(re.findall(r"`(\w+)`", table)) == sorted(medssl_monai.__all__)
