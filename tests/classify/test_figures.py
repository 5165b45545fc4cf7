"""What the figures of results show: their lines, legends, scales and proportions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from medssl_monai.classify.explain import Example
from medssl_monai.classify.figures import draw_confusion_matrix, draw_roc
from medssl_monai.classify.heat_maps import HeatMap, draw_explanations, draw_heat_map, on_slice
from medssl_monai.handlers.embedding_probe import draw_embeddings
from medssl_monai.handlers.history import draw_history
from tests.classify.test_explain import Bright


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    found: list[Figure] = []
    original = Figure.savefig

    def save(self: Figure, *args: Any, **options: Any) -> None:
        found.append(self)
        original(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", save)
    return found


def legend_of(owner: Any) -> list[str]:
    (legend,) = owner.legends if isinstance(owner, Figure) else [owner.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def test_of_two_classes_one_curve_is_drawn(tmp_path: Path, drawn: list[Figure]) -> None:
    labels, second = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9])
    draw_roc(labels, np.stack([1 - second, second], axis=1), ["normal", r"x$\foo$"], tmp_path / "r.png")
    assert legend_of(drawn[0]) == ["chance", r"x\$\foo\$ (AUC 0.750, 2 slices)"]
    labels, three = np.array([0, 1, 2, 2]), np.full((4, 3), 1 / 3)
    draw_roc(labels, three, ["a", "b", "c"], tmp_path / "r.png")
    draw_roc(np.eye(4, 2, dtype=bool), three[:, :2], ["a", "b"], tmp_path / "r.png")
    assert [len(legend_of(figure)) for figure in drawn[1:]] == [4, 3]


def test_a_confusion_matrix_takes_any_names(tmp_path: Path, drawn: list[Figure]) -> None:
    draw_confusion_matrix(np.eye(2, dtype=int), [r"x$\foo$", "y" * 500], tmp_path / "c.png")
    assert drawn


def test_embeddings_have_an_ordered_legend_and_a_look_a_class(tmp_path: Path, drawn: list[Figure]) -> None:
    names = [f"grade_{i % 12 + 1}" for i in range(36)]
    places = [("third quarter", "highest quarter", "lowest quarter")[i % 3] for i in range(36)]
    features = np.random.default_rng(0).normal(size=(36, 4))
    draw_embeddings(features, {"label": names, "place": places}, tmp_path / "e.png", "x")
    first, second = drawn[0].axes
    assert legend_of(first) == [f"grade {i}" for i in range(1, 13)]
    assert legend_of(second) == ["lowest quarter", "third quarter", "highest quarter"]
    assert len({str(np.asarray(one.get_facecolor())[0]) for one in first.collections}) == 12


def test_no_line_crosses_the_legend_of_the_loss(tmp_path: Path, drawn: list[Figure]) -> None:
    rows = [{"step": i + 1, "loss": 3.0 - i, "learning_rate": 0.1} for i in range(3)]
    draw_history(rows, tmp_path / "l.png", 2)
    (figure,) = drawn
    assert legend_of(figure) == ["loss of a step", "mean of an epoch", "learning rate"]
    box = figure.legends[0].get_window_extent()
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)
    means = figure.axes[0].lines[1].get_xydata()
    assert np.asarray(means).tolist() == [[1.5, 2.5], [3.0, 1.0]]


@pytest.mark.parametrize(("shape", "spacing"), [((20, 50), None), ((50, 20), None), ((30, 30), (2.0, 1.0))])
def test_panels_have_the_slices_proportions_and_one_scale(
    shape: tuple[int, int], spacing: tuple[float, float] | None, tmp_path: Path, drawn: list[Figure]
) -> None:
    picture = np.zeros(shape)
    for fall in (0.02, 0.5):
        one = HeatMap("s", 0, picture, picture, np.full(shape, fall), "[/red]$", 0.5, "", spacing, "x", "a_1.png")
        draw_heat_map(one, tmp_path / "h.png")
        panels = drawn[-1].axes[:3]
        boxes = [panel.get_window_extent() for panel in panels]
        row, column = spacing or (1.0, 1.0)
        wanted = shape[0] * row / (shape[1] * column)
        assert [box.height / box.width for box in boxes] == pytest.approx([wanted] * 3, rel=0.02)
        assert {round(box.y0) for box in boxes} == {round(boxes[0].y0)}
        assert panels[2].images[-1].get_clim() == (-1, 1)
        assert f"{fall:.2f}" in panels[2].get_title()
        assert drawn[-1].get_suptitle().startswith("a_1.png\n")


def test_pictures_are_explained_in_their_own_proportions(tmp_path: Path, drawn: list[Figure]) -> None:
    picture = torch.zeros(3, 40, 80, dtype=torch.uint8)
    picture[:, 30:, :10] = 255  # below, at the left
    view = torch.nn.functional.interpolate(picture[None].float() / 255, (64, 64), mode="area")[0]
    for turned in (False, True):
        items: Any = [{"image": view.transpose(1, 2) if turned else view}]
        examples = [Example(0, 0, 1, 0.5)]
        pictures: Any = [{"image": picture}]
        draw_explanations(
            Bright(),
            items,
            examples,
            ["a", "b"],
            tmp_path / "x.png",
            pictures=pictures,
            transposed=turned,
            captions=["case_1$.png"],
        )
        upper, lower = drawn[-1].axes[:2]
        assert upper.get_title().endswith("\ncase_1\\$.png")
        heat = np.asarray(lower.images[0].get_array()) - np.asarray(upper.images[0].get_array())
        row, column = np.unravel_index(np.abs(heat).sum(axis=2).argmax(), (40, 80))
        assert row >= 28 and column <= 12


def test_a_map_is_turned_as_its_view_was() -> None:
    heat = np.arange(16.0).reshape(4, 4)
    assert np.array_equal(on_slice(heat, (4, 4), fitted=False, transposed=True), heat.T)
