"""Tables for a terminal show names as they are written."""

import io
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from medssl_monai.cli.options import print_tables
from medssl_monai.terminal import left_out_table, matches_table, metrics_table, studies_table

FIGURES = {"slices": 1, "accuracy": 1.0, "balanced_accuracy": 1.0, "f1_macro": 1.0, "auc": None, "ece": 0.1}
LEFT_OUT = {"series_id": "", "reason": "BAD", "detail": "it", "files": 1}


def tables(name: str) -> list[Table]:
    study: dict[str, Any] = {"series_id": "s", "slices": 3, "pooling": "mean", "predicted": name}
    return [
        studies_table([{**study, "probabilities": {name: 0.6, "b": 0.4}}]),
        left_out_table([{**LEFT_OUT, "source_id": name}]),
        metrics_table({"per_patient": {name: FIGURES}, "all_slices": FIGURES}),
        matches_table({"query": {"series_id": name}, "compared": name, "percentile": name, "matches": []}),
    ]


@pytest.mark.parametrize(
    "name", ["[/red]", "[bold]x[/bold]", "[link=https://a.example]x", "\x1b]0;owned\x07x", ":smile:"]
)
def test_names_are_no_markup(name: str) -> None:
    for table in tables(name):
        out = io.StringIO()
        Console(file=out, width=200, force_terminal=False).print(table)
        assert name.encode("unicode_escape").decode() in out.getvalue()
        assert "\x1b" not in out.getvalue()


def test_a_table_in_a_pipe_is_as_wide_as_its_content(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a class with a long name " * 6
    print_tables(*tables(name.strip()))
    assert capsys.readouterr().out.count(name.strip()) >= 3


def test_a_narrow_terminal_cuts_no_words(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", "40")
    print_tables(left_out_table([{**LEFT_OUT, "source_id": "s4ckp33kdwy67aubq", "reason": "NOT_AN_IMAGE_FILE"}]))
    out = capsys.readouterr().out
    assert "series or file: s4ckp33kdwy67aubq\nreason: NOT_AN_IMAGE_FILE\nwhat it is: it\nfiles: 1\n" in out
