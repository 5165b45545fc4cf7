"""What all of matplotlib's pictures share: names as text, an order and a colour for each class, one way to a file."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from medssl_monai.atomic import write_atomically
from medssl_monai.plain_text import plain_text

MARKERS = "osD^vPX*<>"
LONGEST_NAME = 40


def picture_text(name: object, longest: int = LONGEST_NAME) -> str:
    r"""A name for a label, a tick or a title of matplotlib, which shows ``$`` as it is and nothing as mathematics.

    Underscores are spaces: a label that begins with one is left out of legends. Of a long name the beginning is shown.

    Example:
        >>> print(picture_text(r"lung_nodule $\foo$"))
        lung nodule \$\foo\$
    """
    text = plain_text(name).replace("_", " ")
    shown = text if len(text) <= longest else f"{text[: longest - 1]}…"
    return shown.replace("$", r"\$")


def natural_order(names: Iterable[str]) -> list[str]:
    """The different names, sorted with their numbers as numbers: ``grade 2`` before ``grade 10``."""

    def parts(name: str) -> list[tuple[str, int, str]]:
        return [(word, len(number), number) for word, number in re.findall(r"(\D*)0*(\d*)", name)]

    return sorted(set(names), key=lambda name: (parts(name), name))


def class_styles(count: int) -> list[dict[str, Any]]:
    """``color`` and ``marker`` of each of so many classes: all colours differ, and those of neighbours visibly."""
    few = count <= 10  # whole numbers choose from the list of tab10
    colours = colormaps["tab10"](np.arange(count)) if few else colormaps["turbo"](np.linspace(0.04, 0.96, count))
    return [{"color": colours[i], "marker": MARKERS[i % len(MARKERS)]} for i in range(count)]


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> None:
    """Write a PNG atomically; its folder is made."""
    write_atomically(path, lambda p: figure.savefig(p, dpi=dpi))
