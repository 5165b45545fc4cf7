"""Names are drawn as they are written; classes have an order and a look of their own."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from medssl_monai.drawing import class_styles, natural_order, picture_text, save_figure
from medssl_monai.plain_text import plain_text

HOSTILE = [r"x$\foo$", "[/red]", "[bold]b", "\x1b]0;owned\x07x", "_hidden", "a\nb", "\u202eevil", "$", "y" * 5000]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Lunge, rechts – ä", "Lunge, rechts – ä"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\tb\nc\r", r"a\tb\nc\r"),
        ("\u202e\u2066", r"\u202e\u2066"),
        ("\udc80", r"\udc80"),
        ("\x9b2J\u2028", r"\x9b2J\u2028"),
    ],
)
def test_nothing_acts_on_a_terminal(text: str, shown: str) -> None:
    assert plain_text(text) == shown


def test_every_name_can_be_drawn(tmp_path: Path) -> None:
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.add_subplot()
    for name in HOSTILE:
        axes.plot([0, 1], label=picture_text(name))
    axes.set_title(picture_text(HOSTILE[0]))
    legend = axes.legend()
    assert len(legend.get_texts()) == len(HOSTILE), "matplotlib leaves out what begins with an underscore"
    save_figure(figure, tmp_path / "new" / "x.png")
    assert (tmp_path / "new" / "x.png").read_bytes().startswith(b"\x89PNG")
    assert max(len(text.get_text()) for text in legend.get_texts()) <= 40


def test_numbers_in_names_are_ordered_as_numbers() -> None:
    names = ["grade 10", "grade 2", "b", "grade 02", "a", "10", "9", "grade 1", "a"]
    assert natural_order(names) == ["9", "10", "a", "b", "grade 1", "grade 02", "grade 2", "grade 10"]


@pytest.mark.parametrize("count", [1, 10, 11, 40])
def test_no_two_classes_look_alike(count: int) -> None:
    styles = class_styles(count)
    colours = np.array([style["color"][:3] for style in styles])
    assert len(np.unique(colours, axis=0)) == count
    assert all(a["marker"] != b["marker"] for a, b in pairwise(styles))
