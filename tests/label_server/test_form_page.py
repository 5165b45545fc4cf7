"""The reader's form in a real browser: by the keyboard alone, quiet, without anything from elsewhere."""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from medssl_monai.ingest import SliceStore
from medssl_monai.label_server.class_labels import ClassLabel
from medssl_monai.label_server.form import ReaderForm
from tests.label_server.reader import form_of_store, running_form, served

pytestmark = pytest.mark.browser

ODD = '</button><img src=x onerror="document.title=1">'


@pytest.fixture
def form(phantom_store: SliceStore, tmp_path: Path) -> ReaderForm:
    return form_of_store(phantom_store.path, tmp_path / "work", served(("head", "thorax", ODD)))


class Reader:
    """The page, opened; with what the browser said and asked for meanwhile."""

    def __init__(self, browser: Any, address: str, form: ReaderForm) -> None:
        self.form, self.said, self.asked = form, list[str](), list[str]()
        self.page = browser.new_context().new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def until(self, true: str, arg: object = None) -> None:
        """Wait for an expression. Playwright's own waiting evaluates text in the page, which its policy forbids."""
        deadline = time.monotonic() + 20
        while not self.page.evaluate(true, arg):
            assert time.monotonic() < deadline, (true, self.text("said"), self.said)
            self.page.wait_for_timeout(30)

    def wait(self, position: int) -> str:
        """The series that is shown, once the picture of this one (by its place in the store) is seen."""
        name = self.form.studies.ids()[position]
        self.until(
            "name => document.body.getAttribute('aria-busy') === 'false' && said.textContent.includes(name)"
            " && document.getElementById('picture').naturalWidth > 0",
            arg=name,
        )
        return name

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def text(self, name: str) -> str:
        return str(self.page.locator(f"#{name}").inner_text())

    def label(self, position: int) -> ClassLabel | None:
        return self.form.records.class_label(self.form.studies.ids()[position])


@pytest.fixture
def reader(browser: Any, form: ReaderForm) -> Iterator[Reader]:
    with running_form(form) as address:
        reader = Reader(browser, address, form)
        yield reader
        reader.page.context.close()


def test_a_keyboard_is_enough(reader: Reader) -> None:
    """Classes by number, skip, back and change, remove, another class, the skipped ones again."""
    reader.wait(0)
    reader.press("2")
    reader.wait(1)
    assert reader.label(0) == ClassLabel("thorax")
    assert reader.text("progress") == "1 of 5 series have a class"
    reader.press("s")
    reader.wait(2)
    reader.press("b")
    reader.wait(1)
    reader.press("b")
    reader.wait(0)
    assert "thorax" in reader.text("said")
    reader.press("1")
    reader.wait(2)
    assert reader.label(0) == ClassLabel("head")
    reader.press("n", *"neck", "Enter")
    reader.wait(3)
    assert reader.label(2) == ClassLabel("neck")
    reader.press("1")
    reader.wait(4)
    reader.press("b")
    reader.wait(3)
    reader.press("x")
    reader.until("said.textContent.includes('no class')")
    assert reader.label(3) is None
    reader.wait(3)
    reader.press("1")
    reader.wait(4)
    reader.press("4")
    reader.until("said.textContent.includes('except 1 skipped')")
    assert reader.label(4) == ClassLabel("neck"), "a new class has a key"
    assert not reader.page.locator("#shown").is_visible()
    reader.press("r")
    reader.wait(1)
    assert reader.said == []


def test_tab_and_enter_are_enough(reader: Reader) -> None:
    reader.wait(0)
    for _ in range(40):
        reader.press("Tab")
        if reader.page.evaluate("document.activeElement.textContent") == "1head":
            break
    assert reader.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    reader.press("Enter")
    reader.wait(1)
    assert reader.label(0) == ClassLabel("head")


def test_a_key_held_down_gives_one_class(reader: Reader) -> None:
    reader.wait(0)
    reader.page.keyboard.down("1")
    for position in (1, 1):
        reader.wait(position)
        reader.page.keyboard.down("1")  # the browser marks it as repeated
    assert reader.label(1) is None


def test_no_class_before_a_picture_is_seen(browser: Any, form: ReaderForm) -> None:
    with running_form(form) as address:
        reader = Reader(browser, "about:blank", form)
        reader.page.route("**/slice?*", lambda route: route.abort())
        reader.page.goto(address)
        reader.until("caption.textContent.includes('cannot be shown')")
        reader.press("1")
        reader.page.locator("#classes button").first.click()
        assert reader.label(0) is None
        assert not reader.page.locator("#picture").is_visible()
        reader.press("s")
        reader.until("name => !said.textContent.includes(name)", arg=form.studies.ids()[0])
        reader.page.context.close()


def test_slices(reader: Reader) -> None:
    reader.wait(0)
    start = reader.text("caption")
    assert re.fullmatch(r"Slice 3, 4 of 6", start)
    for keys, number in ((["ArrowUp"], 4), (["End"], 5), (["ArrowRight"], 5), (["Home"], 0), (["PageUp"], 1)):
        reader.press(*keys)
        reader.until("number => caption.textContent.startsWith(`Slice ${number},`)", arg=number)
    reader.until("document.getElementById('keys').children[5].firstChild.naturalWidth === 64")
    seen = reader.page.evaluate("document.getElementById('picture').src")
    reader.press("w")
    reader.until(
        "seen => { const now = document.getElementById('picture'); return !now.hidden && now.src !== seen; }", arg=seen
    )
    assert [url for url in reader.asked if "window=lung" in url]
    reader.page.locator("#slider").focus()
    reader.press("ArrowUp")
    assert reader.text("caption").startswith("Slice 2,"), "not moved twice"
    assert reader.page.locator("#right").is_visible()


def test_class_names_are_text(reader: Reader) -> None:
    reader.wait(0)
    buttons = reader.page.locator("#classes button")
    assert buttons.nth(2).inner_text() == "3" + ODD
    assert reader.page.locator("#classes img").count() == 0
    reader.press("3")
    reader.until("said.classList.contains('wrong')")
    assert "a class must have at most 64 letters" in reader.text("said")
    assert reader.page.title() == "Give classes"


def test_another_readers_class_is_told(reader: Reader, tmp_path: Path) -> None:
    name = reader.wait(0)
    reader.form.save(name, "head", None)
    reader.press("2")
    reader.until("said.classList.contains('wrong')")
    assert "another reader" in reader.text("said")
    assert reader.label(0) == ClassLabel("head")


def test_only_its_own_script_runs_and_only_its_own_server_is_asked(reader: Reader) -> None:
    reader.wait(0)
    assert reader.said == []
    own = urllib.parse.urlsplit(reader.page.url).netloc
    assert {urllib.parse.urlsplit(url).netloc for url in reader.asked if not url.startswith(("data:", "blob:"))} == {
        own
    }
    reader.page.evaluate(
        "() => { const own = document.createElement('script'); own.textContent = 'document.title = 1';"
        "document.body.append(own); document.body.setAttribute('onclick', 'document.title = 2');"
        "document.body.click(); }"
    )
    assert reader.page.title() == "Give classes"
    assert any("Content Security Policy" in text for text in reader.said)


def test_a_small_screen(browser: Any, form: ReaderForm) -> None:
    with running_form(form) as address:
        reader = Reader(browser, address, form)
        page = reader.page
        page.set_viewport_size({"width": 390, "height": 800})
        reader.wait(0)
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.context.close()
