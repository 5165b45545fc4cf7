"""Golden numbers: computed once with public reference code, checked here against an independent implementation.

Weights and inputs are not stored: `fill` makes them from their names. Every file's "meta" tells its settings.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.golden import fill

FOLDER = Path(__file__).parent


def load(name: str) -> tuple[dict[str, Any], dict[str, fill.Array]]:
    """Meta and arrays of ``<name>.npz``."""
    return fill.load(FOLDER / f"{name}.npz")


def load_json(name: str) -> dict[str, Any]:
    """Content of ``<name>.json``."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def corners(want: Mapping[str, fill.Array], kind: str) -> Iterator[tuple[str, fill.Array, tuple[slice, ...]]]:
    """Tensors stored as ``KIND:NAME``, whole or their first corner: name, values, and where they lie in the tensor."""
    for key, stored in want.items():
        if key.startswith(f"{kind}:"):
            yield key.partition(":")[2], stored, tuple(slice(n) for n in stored.shape)
