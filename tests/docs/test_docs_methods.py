"""The methods' pages: recipes as the bundles have them, figures as the script draws them; and a method of one's own."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser
from PIL import Image

from medssl_monai.resources import bundle_dir, config_file
from tests.docs.pages import DOCS, blocks, commands, run_medssl

METHODS = ["spark", "swav", "moco", "byol"]


@pytest.mark.parametrize("method", METHODS)
def test_recipes_are_the_bundles(method: str) -> None:
    text = (DOCS / "methods" / f"{method}.md").read_text(encoding="utf-8")
    assert f"| key | default | `paper_{method}` |" in text
    rows = re.findall(r"^\| `([a-z_]+)` \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert len(rows) >= 8
    default = bundle_dir(f"ct_ssl_{method}") / "configs" / "train.yaml"
    for column, files in ((1, [default]), (2, [default, config_file(f"paper_{method}")])):
        parser = ConfigParser()
        parser.read_config([str(file) for file in files])
        for row in rows:
            assert yaml.safe_load(row[column]) == parser.get_parsed_content(row[0]), (row[0], files[-1].name)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "draw_figures.py"))


@pytest.mark.skipif(matplotlib.__version_info__ < (3, 11), reason="matplotlib before 3.11 places text elsewhere")
@pytest.mark.parametrize("number", range(6))
def test_figures_are_the_scripts(number: int, script: dict[str, Any], tmp_path: Path) -> None:
    script["QUICK"][number](tmp_path)
    (drawn,) = tmp_path.iterdir()
    with Image.open(drawn) as now, Image.open(DOCS / "images" / drawn.name) as kept:
        assert now.size == kept.size
        difference = np.abs(np.asarray(now.convert("L"), float) - np.asarray(kept.convert("L"), float))
    assert difference.mean() < 2, drawn.name


def test_there_are_six_figures_that_need_no_training(script: dict[str, Any]) -> None:
    assert len(script["QUICK"]) == 6


def test_a_method_of_ones_own(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = DOCS / "how_to" / "own_method.md"
    for language, name in (("python", "simsiam.py"), ("yaml", "simsiam.yaml")):
        (text,) = blocks(page, f'{language} title="{name}"')
        (desk / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(desk))
    run_medssl(["medssl", "ingest", "ARCHIVE", "--out", "STORE"], monkeypatch)
    found = commands(page)
    assert len(found) == 2
    for words in found:
        run_medssl(words, monkeypatch)
    history = (desk / "runs" / "simsiam" / "logs" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(-1 <= json.loads(line)["loss"] <= 1 for line in history)
    assert json.loads((desk / "runs" / "region" / "run.json").read_text())["bundle"] == "ct_classification"
