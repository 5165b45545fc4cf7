"""`report.html` in a real browser: pictures show, filters work, no complaints, nothing asked of a network."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from medssl_monai.ingest import SliceStore, build_store
from tests.ingest.dicom_fixtures import KEY, anatomy, dataset, phantom, write, write_series

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """Two CT series, one with a gap, of two patients; an MR series; and a file that is none."""
    folder = tmp_path_factory.mktemp("report")
    write_series(folder / "in" / "a", anatomy(0), series="a", PatientID="A")
    write_series(folder / "in" / "b", phantom(), series="b", BodyPartExamined="HEAD")[2].unlink()
    mr: dict[str, Any] = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}
    write(dataset(np.abs(phantom()[0]).astype("u2"), series="mr", **mr), folder / "in" / "mr")
    (folder / "in" / "notes.txt").write_text("no image")
    build_store([folder / "in"], folder / "store", key=KEY, progress=False, report=True)
    return SliceStore(folder / "store")


class Page:
    """The report, opened; with all that the browser said and asked for meanwhile."""

    def __init__(self, browser: Any, store: SliceStore, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_context(**options).new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto((store.path / "report.html").as_uri())

    def shown(self) -> set[str]:
        """Ids of the series that can be seen."""
        cards = self.page.locator("section.series").all()
        return {card.locator("code").first.inner_text() for card in cards if card.is_visible()}


@pytest.fixture
def report(browser: Any, store: SliceStore) -> Iterator[Page]:
    page = Page(browser, store)
    yield page
    page.page.context.close()


def test_page_is_quiet_and_asks_for_nothing(report: Page, store: SliceStore) -> None:
    report.page.wait_for_load_state("networkidle")
    assert report.said == []
    schemes = [urllib.parse.urlsplit(url).scheme for url in report.asked]
    assert set(schemes) <= {"data", "file"}  # pictures inside the page may be told as requests, or not
    assert schemes.count("file") == 1
    assert report.page.title() == "Ingestion report"


def test_pictures_and_histograms_are_drawn(report: Page, store: SliceStore) -> None:
    pictures = report.page.locator("section.series img")
    assert pictures.count() == 3
    for number in range(3):
        picture = pictures.nth(number)
        assert picture.evaluate("one => one.complete && one.naturalWidth > 30 && one.naturalHeight > 30")
        greys = picture.evaluate(
            """one => { const c = document.createElement("canvas"); c.width = one.naturalWidth;
            c.height = one.naturalHeight; const g = c.getContext("2d"); g.drawImage(one, 0, 0);
            return [...new Set(g.getImageData(0, 0, c.width, c.height).data)].length; }"""
        )
        assert greys > 8
    for histogram in report.page.locator("section.series svg path").all():
        assert histogram.bounding_box()["height"] > 20


def test_filters(report: Page, store: SliceStore) -> None:
    page = report.page
    rows = {row["series_id"]: row for row in store.select()}
    gap = {name for name, row in rows.items() if row["flags"] == "gap"}
    mr = {name for name, row in rows.items() if row["modality"] == "MR"}
    assert report.shown() == set(rows)
    page.select_option("#modality", "MR")
    assert report.shown() == mr
    assert page.locator("#shown").inner_text() == "1 of 3 series"
    page.select_option("#modality", "")
    page.select_option("#flag", "gap")
    assert report.shown() == gap
    page.fill("#text", "head chest")
    assert report.shown() == set()
    assert page.locator("#none").is_visible()
    page.select_option("#flag", "")
    page.fill("#text", "  HEAD ct ")
    assert report.shown() == gap
    page.click("#clear")
    assert report.shown() == set(rows)
    assert page.input_value("#text") == ""
    page.select_option("#outcome", "accepted")
    assert report.shown() == set(rows)
    name = sorted(rows)[0]
    page.fill("#text", name)
    page.keyboard.press("Enter")
    assert report.shown() == {name}
    assert [url for url in report.asked if not url.startswith(("file:", "data:"))] == []
    assert report.said == []


@pytest.mark.parametrize("options", [{"viewport": {"width": 390, "height": 800}}, {"color_scheme": "dark"}])
def test_small_and_dark_screens(browser: Any, store: SliceStore, options: dict[str, Any]) -> None:
    """Nothing sticks out to the side; text stands out against what is behind it."""
    page = Page(browser, store, **options).page
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    colours = page.evaluate(
        "(() => { const s = getComputedStyle(document.querySelector('section.series')); return [s.color, "
        "s.backgroundColor].map(c => c.match(/[0-9.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)); })()"
    )
    assert abs(colours[0] - colours[1]) > 450
    page.context.close()


def test_page_tells_what_was_not_taken(report: Page) -> None:
    row = report.page.locator("tbody tr")
    assert row.count() == 1
    assert "NOT_AN_IMAGE_FILE" in row.inner_text()
    row.locator("summary").click()
    assert row.locator("details code").is_visible()
