"""Read by mkdocs (``hooks`` in mkdocs.yml): the contents without pages that are not written, and the commands' options.

``tests/docs`` asks that every page is in the contents, so that a wrong name does not go unseen.
"""

import os
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from medssl_monai.cli.main import app


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by mkdocs once the configuration is read.

    The address in MEDSSL_REPOSITORY becomes a link in the footer. mkdocs' own ``repo_url`` would make the theme ask
    the host for numbers of stars.
    """
    config.nav = _written(config.nav, Path(config.docs_dir))
    if repository := os.environ.get("MEDSSL_REPOSITORY"):
        config.extra["social"] = [{"icon": "fontawesome/brands/git-alt", "link": repository, "name": "Repository"}]
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Called by mkdocs for every page: the page of the command line gets all options, from the command itself."""
    return markdown.replace("<!-- options -->", command_options()) if page.file.src_uri == "cli.md" else markdown


def command_options() -> str:
    """The help of every command as Markdown, by typer."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="medssl", indent=1)
    text = re.sub(r"^\* `--help`.*\n", "", text, flags=re.MULTILINE)
    return text[text.index("### `medssl ") :]


def _written(entries: Any, folder: Path) -> list[Any]:
    kept: list[Any] = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            kept.append({title: _written(target, folder)})
        elif (folder / target).is_file():
            kept.append(entry)
    return kept
