"""The site is built without a warning, and reads nothing from elsewhere."""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

from medssl_monai.cli.main import app
from tests.docs.pages import DOCS, ROOT

MISSING = [name for name in ("mkdocs", "material", "mkdocstrings") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"needs the extra docs: {MISSING}")


class Assets(HTMLParser):
    """Addresses that a browser fetches by itself; links, which a reader may follow, are not among them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        address = given.get("src") or (given.get("href") if tag == "link" else None)
        if address and not (tag == "link" and given.get("rel") == "canonical"):
            self.found.append(address)
        for name in ("srcset", "poster", "data-src"):
            if given.get(name):
                self.found.append(str(given[name]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(out)]
    ended = subprocess.run(build, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return out


def test_every_page_is_built(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS)).with_suffix(".html").is_file(), page.name
    assert not list(site.rglob("*.py"))


def test_nothing_comes_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text(encoding="utf-8"))
        assert assets.found
        for address in assets.found:
            if address.startswith("data:"):
                continue
            assert not re.match(r"(?:\w+:)?//", address), (page.name, address)
            if page.name != "404.html":  # its addresses start at the server's root
                assert (page.parent / address.split("#")[0].split("?")[0]).exists(), (page.name, address)
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", text), sheet.name


def test_the_reference_shows_docstrings(site: Path) -> None:
    text = (site / "reference" / "methods.html").read_text(encoding="utf-8")
    for words in ("Encodes the visible patches of an image", "masked_reconstruction_loss", "SwAV"):
        assert words in text
    assert "Args:" not in text and ":class:" not in text


def test_the_command_line_page_has_every_command_and_option(site: Path) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    source = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \| .* \|$", source.split("## ")[0], re.MULTILINE) == list(commands)
    named = set(re.findall(r"`([a-z_]+)`", source))
    overlays = {path.stem for path in (ROOT / "configs").rglob("*.yaml")} - {"windows"}
    assert overlays <= named, overlays - named
    built = (site / "cli.html").read_text(encoding="utf-8")
    bundles = commands.pop("bundle").commands
    for name, command in [*commands.items(), *((f"bundle {name}", one) for name, one in bundles.items())]:
        assert f"medssl {name}" in built
        for option in (text for parameter in command.params for text in parameter.opts if text.startswith("--")):
            assert option in built or option == "--help", (name, option)


def test_search_works_in_pages_opened_from_a_folder(site: Path) -> None:
    assert (site / "search" / "search_index.js").is_file()
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium")
    headless = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000", "--dump-dom"]
    address = f"file://{site}/index.html?q=Sinkhorn"
    page = subprocess.run([*headless, address], capture_output=True, text=True, timeout=120, check=True).stdout
    (found,) = re.findall(r"([0-9]+) matching documents", page)
    assert int(found) >= 2
