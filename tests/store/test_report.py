"""`report.html`: whole by itself, equal for equal stores, true or absent, and nobody can be recognised in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.store.report import write_report
from tests.ingest.dicom_fixtures import KEY, anatomy, dataset, phantom, tree_bytes, uid, write, write_series

VOID = {"link", "meta", "input", "img", "path", "line", "br"}


class Outline(HTMLParser):
    """Collects tags with their attributes, and checks that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    assert parsed.open == []
    return parsed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "Plantedname"
    write_series(folder / "a", anatomy(0), series="a")
    write_series(folder / "b", phantom(), series="b")[2].unlink()
    ct = dataset(np.abs(phantom()[0]).astype("u2"), series="mr", SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR")
    write(ct, folder / "mr")
    (folder / "notes<script>.txt").write_text("Plantedname^Erika")
    return folder


def test_page_is_whole_and_says_what_is_there(source: Path, tmp_path: Path) -> None:
    build_store([source], tmp_path / "store", key=KEY, progress=False, report=True)
    page = (tmp_path / "store" / "report.html").read_text(encoding="utf-8")
    tags = outline(page).tags
    sources = [attributes.get("src") or attributes.get("href") or "" for _, attributes in tags]
    assert all(one == "data:," or one.startswith("data:image/png;base64,") for one in sources if one)
    assert not re.search(r"https?://|url\(|@import", page)
    series = [attributes for _, attributes in tags if attributes.get("class") == "series"]
    assert len(series) == 3
    assert sum(tag == "img" for tag, _ in tags) == sum(tag == "svg" for tag, _ in tags) == 3
    store = SliceStore(tmp_path / "store")
    for name in store.series_ids:
        assert name in page
    assert sorted(attributes["data-modality"] or "" for attributes in series) == ["CT", "CT", "MR"]
    assert {"", "gap"} == {attributes["data-flags"] for attributes in series}
    assert "NOT_AN_IMAGE_FILE" in page
    for planted in ("Plantedname", "Erika", "4711", uid("a"), str(source), "notes"):
        assert planted not in page


def test_equal_stores_have_equal_reports(source: Path, tmp_path: Path) -> None:
    build_store([source], tmp_path / "one", key=KEY, progress=False, report=True)
    build_store([source / "b"], tmp_path / "two", key=KEY, progress=False, report=True)
    build_store([source], tmp_path / "two", key=KEY, progress=False, report=True, workers=2)
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")
    before = (tmp_path / "one" / "report.html").stat().st_mtime_ns
    build_store([source], tmp_path / "one", key=KEY, progress=False, report=True)
    assert (tmp_path / "one" / "report.html").stat().st_mtime_ns == before


def test_stale_report_is_taken_away(source: Path, tmp_path: Path) -> None:
    build_store([source / "a"], tmp_path / "store", key=KEY, progress=False, report=True)
    build_store([source / "a"], tmp_path / "store", key=KEY, progress=False)
    assert (tmp_path / "store" / "report.html").is_file()
    build_store([source], tmp_path / "store", key=KEY, progress=False)
    assert not (tmp_path / "store" / "report.html").exists()


def test_pictures_are_limited(source: Path, tmp_path: Path) -> None:
    build_store([source], tmp_path / "store", key=KEY, progress=False)
    page = write_report(SliceStore(tmp_path / "store"), max_pictures=1).read_text(encoding="utf-8")
    assert page.count("<img") == 1
    assert page.count('class="series"') == 3
    assert "pictures of the first 1." in page
