"""The files of the bundles that repeat one another are those that ``make bundles`` writes."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GENERATED: dict[Path, str] = dict(runpy.run_path(str(ROOT / "bundle_templates" / "generate.py"))["generated"]())


@pytest.mark.parametrize("path", GENERATED, ids=str)
def test_committed_files_are_the_generated_ones(path: Path) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == GENERATED[path], "change bundle_templates/, then `make bundles`"


def test_every_repeated_file_is_generated() -> None:
    assert len(GENERATED) == 4 * 6 + 4 + 1
