"""Every command of the page on prediction, run in order at smoke size."""

import shlex
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, commands, run_medssl


@pytest.mark.slow
def test_prediction_page(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_medssl(shlex.split("medssl ingest ARCHIVE --out STORE"), monkeypatch)
    run_medssl(shlex.split("medssl finetune --data labels.csv --store STORE --out RUN"), monkeypatch)
    found = commands(DOCS / "predict.md")
    assert [words[1] for words in found] == ["predict", "similar", "predict"]
    drawn = []
    for words in found:
        run_medssl(words, monkeypatch)
        drawn.append(len(list((desk / "prediction" / "heat_maps").iterdir())))
    assert drawn == [3, 3, 2], "the second prediction's take the place of the first's"
    assert (desk / "similar" / "similar.png").is_file()
    assert len(list((desk / "outbox").iterdir())) == 3
