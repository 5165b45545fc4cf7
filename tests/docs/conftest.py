"""The desk at which a reader of the docs sits."""

import re
import shutil
from pathlib import Path

import pytest

from tests.docs.pages import ROOT


@pytest.fixture
def desk(phantom_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the docs speak of: ARCHIVE, NEW_STUDY, labels.csv, the bundles."""
    shutil.copytree(phantom_labels.parent, tmp_path / "ARCHIVE")
    shutil.copytree(phantom_labels.parent / "phantom-005", tmp_path / "NEW_STUDY")
    (tmp_path / "FOLDER").symlink_to("NEW_STUDY")
    table = phantom_labels.read_text(encoding="utf-8").replace("phantom-", "ARCHIVE/phantom-")
    (tmp_path / "labels.csv").write_text(re.sub(r"ARCHIVE/(phantom-\d+),(\w+)$", r"\1,\2", table, flags=re.M))
    (tmp_path / "bundles").symlink_to(ROOT / "bundles")
    (tmp_path / "configs").symlink_to(ROOT / "bundles" / "ct_ssl_spark" / "configs")
    (tmp_path / "FILE.yaml").write_text("seed: 3\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path
