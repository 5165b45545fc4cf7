"""Read by mkdocs (``hooks`` in mkdocs.yml): contents in the order that is wanted, without pages that are not written.

``tests/docs`` asks that every page is in the contents, so that a wrong name does not go unseen.
"""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Called by mkdocs once the configuration is read."""
    config.nav = _written(config.nav, Path(config.docs_dir))
    return config


def _written(entries: Any, folder: Path) -> list[Any]:
    kept: list[Any] = []
    for entry in entries:
        ((title, target),) = entry.items()
        if isinstance(target, list):
            kept.append({title: _written(target, folder)})
        elif (folder / target).is_file():
            kept.append(entry)
    return kept
