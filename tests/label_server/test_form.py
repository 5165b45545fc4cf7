"""The reader's form over HTTP: what it shows, what it saves, what it refuses, and that it names nobody."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import SliceStore
from medssl_monai.label_server.class_labels import ClassLabel
from medssl_monai.label_server.form import KEY_SLICES, LARGEST_SIDE, ReaderForm, key_positions
from medssl_monai.label_server.form_routes import PAGE, content_security_policy
from medssl_monai.label_server.studies import PacsStudies
from medssl_monai.label_server.workspace import ServerSettings, Workspace
from medssl_monai.store.pseudonyms import pseudonym
from medssl_monai.store.thumbnails import in_proportion
from tests.label_server.reader import application, form_of_store, form_over, served


@pytest.fixture
def form(phantom_store: SliceStore, tmp_path: Path) -> ReaderForm:
    return form_of_store(phantom_store.path, tmp_path / "work", served(("head", "thorax"), [-1000.0, 400.0]))


@pytest.fixture
def client(form: ReaderForm) -> TestClient:
    return TestClient(application(form))


def choose(client: TestClient, *skipped: str) -> dict[str, Any]:
    answer = client.post("/form/next", json={"strategy": "random", "skipped": list(skipped)})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def give(client: TestClient, shown: dict[str, Any], label: str | None) -> Any:
    return client.put("/form/class", json={"series": shown["series"], "label": label, "before": shown["label"]})


def grey(client: TestClient, series: str, position: int, window: str = "run") -> np.ndarray:
    answer = client.get("/form/slice", params={"series": series, "position": position, "window": window})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png"), answer.text
    return np.asarray(cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED))


def test_only_the_pages_own_script_and_style_may_run(client: TestClient) -> None:
    answer = client.get("/form/")
    rules = dict(rule.split(" ", 1) for rule in answer.headers["content-security-policy"].split("; "))
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        (own,) = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'"
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert not re.search(r"https?:|//[a-z]|@import|\son[a-z]+=|\sstyle=|\ssrc=", PAGE)
    assert content_security_policy(PAGE.replace("skip", "slip")) != answer.headers["content-security-policy"]


def test_nothing_is_kept_by_browsers_or_read_by_other_pages(client: TestClient) -> None:
    name = choose(client)["series"]
    for path in ("/form/", "/form/start", f"/form/series?series={name}", f"/form/slice?series={name}&position=0"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"


def test_series_are_labelled_one_after_another(client: TestClient, form: ReaderForm) -> None:
    ids = form.studies.ids()
    first = choose(client)
    assert (first["series"], first["label"], first["labelled"], first["total"]) == (ids[0], None, 0, 5)
    assert first["slices"] == list(range(6))
    assert first["classes"] == ["head", "thorax"]
    assert give(client, first, "thorax").status_code == 200
    second = choose(client)
    assert (second["series"], second["labelled"]) == (ids[1], 1)
    assert choose(client, ids[1], ids[3])["series"] == ids[2]
    for _ in ids[1:]:
        assert give(client, choose(client), "neck").status_code == 200
    done = choose(client)
    assert (done["series"], done["labelled"]) == (None, 5)
    assert done["classes"] == ["head", "thorax", "neck"], "the classifier's, then others that readers gave"


def test_a_class_is_stored_as_any_client_stores_it(client: TestClient, form: ReaderForm, tmp_path: Path) -> None:
    shown = choose(client)
    file = tmp_path / "label.json"
    file.write_text(json.dumps({"label": "thorax"}), encoding="utf-8")
    form.records.save_label("by-rest", file, "final", {})
    give(client, shown, "thorax")
    found, expected = (form.records.read(name) for name in (shown["series"], "by-rest"))
    for record, name in ((found, shown["series"]), (expected, "by-rest")):
        assert form.records.label_file(name, "final").read_text() == file.read_text()
        record["labels"]["final"]["info"].pop("ts")
        assert record["labels"]["final"]["info"].pop("name") == f"{name}.json"
    assert found == expected
    assert not list(form.studies.workspace.tmp.iterdir())


def test_classes_of_single_slices_stay(client: TestClient, form: ReaderForm, tmp_path: Path) -> None:
    shown = choose(client)
    file = tmp_path / "label.json"
    file.write_text(json.dumps({"slices": {"5": "head"}}), encoding="utf-8")
    form.records.save_label(shown["series"], file, "final", {})
    shown = client.get("/form/series", params={"series": shown["series"]}).json()
    assert shown["label"] == {"slices": {"5": "head"}}
    give(client, shown, "thorax")
    assert form.records.class_label(shown["series"]) == ClassLabel("thorax", {5: "head"})
    shown = client.get("/form/series", params={"series": shown["series"]}).json()
    give(client, shown, None)
    assert form.records.class_label(shown["series"]) == ClassLabel(None, {5: "head"})


def test_a_class_can_be_changed_and_removed(client: TestClient, form: ReaderForm) -> None:
    shown = choose(client)
    give(client, shown, "thorax")
    assert give(client, {**shown, "label": {"label": "thorax"}}, "head").status_code == 200
    assert form.records.class_label(shown["series"]) == ClassLabel("head")
    assert give(client, {**shown, "label": {"label": "head"}}, None).status_code == 200
    assert form.records.class_label(shown["series"]) is None
    assert give(client, shown, None).status_code == 200


def test_another_readers_class_is_not_overwritten_unseen(client: TestClient, form: ReaderForm) -> None:
    shown = choose(client)
    give(client, shown, "thorax")
    for label in ("head", None):
        refused = give(client, shown, label)
        assert refused.status_code == 409
        assert "another reader" in refused.json()["detail"]
    assert form.records.class_label(shown["series"]) == ClassLabel("thorax")


def test_a_picture_is_the_slice_in_the_runs_window(client: TestClient, form: ReaderForm) -> None:
    name = choose(client)["series"]
    hu = form.studies.store.read(name, 2).astype(float)
    assert grey(client, name, 2).tolist() == np.clip(np.rint((hu + 1000) / 1400 * 255), 0, 255).tolist()
    lung = np.clip((hu + 1350) / 1500 * 255, 0, 255)
    assert np.abs(grey(client, name, 2, "lung") - lung).max() < 0.51
    minmax = (hu - hu.min()) / (hu.max() - hu.min()) * 255
    assert np.abs(grey(client, name, 2, "minmax") - minmax).max() < 0.51
    assert len({grey(client, name, position).tobytes() for position in range(6)}) == 6


def test_a_window_of_tags_that_are_missing_is_the_slices_own_range(
    form: ReaderForm, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = form.studies.ids()[0]
    rows = form.studies.rows(name)
    monkeypatch.setattr(form.studies, "rows", lambda _: [{**row, "window_width": None} for row in rows])
    assert form.picture(name, 0, "tags") == form.picture(name, 0, "minmax")
    monkeypatch.setattr(form.studies, "rows", lambda _: [{**r, "window_level": 30, "window_width": 150} for r in rows])
    assert form.picture(name, 0, "tags") == form.picture(name, 0, "liver")


def test_pictures_have_square_pixels_and_a_largest_side(form: ReaderForm, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"spacing_row_mm": 2.0, "spacing_column_mm": 0.5}
    assert in_proportion(np.zeros((60, 120), np.uint8), row, 100).shape == (100, 50)
    large = np.zeros((1500, 3000), np.int16)
    monkeypatch.setattr(form.studies.store, "read", lambda *_: large)
    name = form.studies.ids()[0]
    picture: Any = cv2.imdecode(np.frombuffer(form.picture(name, 0), np.uint8), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (LARGEST_SIDE // 2, LARGEST_SIDE)


@given(st.integers(1, 2000))
def test_key_slices_are_evenly_spaced(count: int) -> None:
    found = key_positions(count)
    assert len(found) == min(count, KEY_SLICES)
    gaps = np.diff(found)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert gaps.min(initial=1) >= 1
    assert found[0] <= count / len(found) / 2
    assert abs(found[0] - (count - 1 - found[-1])) <= 1


def test_windows_and_strategies(form: ReaderForm, phantom_store: SliceStore, tmp_path: Path) -> None:
    start = form.start()
    assert (start["strategy"], start["window"]) == ("uncertain", "run")
    assert start["windows"]["run"] == "run's window: -1000 to 400 HU"
    assert start["windows"]["brain"] == "brain: 0 to 80 HU"
    assert "picture" not in start["windows"]
    without = form_of_store(phantom_store.path, tmp_path / "w")
    assert without.start()["strategy"] == "random"
    assert without.start()["windows"]["run"] == "run's window: -1000 to 1000 HU"
    without.studies.settings = replace(without.studies.settings, modality="DX")
    assert list(without.start()["windows"]) == ["run", "tags", "minmax", "picture"], (
        "no window in HU for what is not CT"
    )
    several = form_of_store(phantom_store.path, tmp_path / "v", served(("a", "b"), ["lung", "bone", "wide"]))
    assert several.start()["windows"]["run"] == "run's window: -1350 to 150 HU"


def test_series_that_cannot_be_shown_are_passed_over_and_said(
    form: ReaderForm, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, rows = form.studies.ids(), form.studies.rows

    def failing(image_id: str) -> Any:
        if image_id in ids[:2]:
            raise NoImagesError("no axial slice")
        return rows(image_id)

    monkeypatch.setattr(form.studies, "rows", failing)
    found = choose(client)
    assert (found["series"], found["unreadable"]) == (ids[2], ids[:2])
    found = choose(client, *ids[2:])
    assert (found["series"], found["unreadable"]) == (None, ids[:2])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("series?series=nobody", 404),
        ("series", 404),
        ("slice?series=nobody&position=0", 404),
        ("slice?series={name}", 400),
        ("slice?series={name}&position=6", 400),
        ("slice?series={name}&position=-1", 400),
        ("slice?series={name}&position=0&window=../x", 400),
        ("next", 405),
        ("class", 405),
        ("other", 404),
    ],
)
def test_wrong_questions(client: TestClient, form: ReaderForm, path: str, status: int) -> None:
    assert client.get("/form/" + path.format(name=form.studies.ids()[0])).status_code == status


@pytest.mark.parametrize(
    "change", [{"label": "$x"}, {"label": 3}, {"label": ["a"]}, {"before": "thorax"}, {"series": None}, {"series": "x"}]
)
def test_wrong_classes(client: TestClient, form: ReaderForm, change: dict[str, Any]) -> None:
    sent = {"series": form.studies.ids()[0], "label": "thorax", "before": None, **change}
    assert client.put("/form/class", json=sent).status_code in (400, 404)
    assert client.put("/form/class", content=json.dumps(sent)).status_code == 400, "pages elsewhere can send text"
    assert not list(form.studies.workspace.records.iterdir())


def test_wrong_strategies(client: TestClient) -> None:
    wrong: list[Any] = [{"strategy": "none", "skipped": []}, {"strategy": "random"}, []]
    for sent in [*wrong, {"strategy": "random", "skipped": 1}]:
        assert client.post("/form/next", json=sent).status_code == 400
    assert client.post("/form/next", json={"strategy": "random", "skipped": ["nobody"]}).status_code == 404


def all_answers(form: ReaderForm) -> bytes:
    client = TestClient(application(form))
    shown = choose(client)
    give(client, shown, "thorax")
    answers = [client.get("/form/"), client.get("/form/start"), client.get(f"/form/series?series={shown['series']}")]
    answers += [client.get(f"/form/slice?series={shown['series']}&position=0"), give(client, shown, "head")]
    answers.append(client.post("/form/next", json={"strategy": "random", "skipped": []}))
    return b"".join(str(one.headers).encode() + one.content for one in answers)


def test_no_answer_names_a_patient(phantom_labels: Path, form: ReaderForm, tmp_path: Path) -> None:
    header = pydicom.dcmread(next(phantom_labels.parent.rglob("*.dcm")), stop_before_pixels=True)
    names = {str(header[name].value) for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")}
    found = all_answers(form)
    assert not [name for name in names if name.encode() in found]


def test_series_of_a_pacs_are_named_by_pseudonyms(
    form: ReaderForm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a PACS an image is a SeriesInstanceUID; the page must not learn it."""
    workspace = Workspace(tmp_path / "pacs")
    workspace.prepare()
    studies = PacsStudies(workspace, ServerSettings(studies="http://127.0.0.1:1/dicom-web"))
    uids = [f"1.2.826.0.1.{number}" for number in range(3)]
    studies._listed = (float("inf"), uids)
    rows = form.studies.rows(form.studies.ids()[0])
    monkeypatch.setattr(studies, "rows", lambda uid: rows if uid in uids else pytest.fail(f"asked for {uid}"))
    studies._opened = ((0, 0), form.studies.store)
    found = all_answers(form_over(studies))
    assert pseudonym(studies.key, "series", uids[0]).encode() in found
    assert not [uid for uid in uids if uid.encode() in found]
    assert Path(workspace.labels / "final" / f"{studies.record_name(uids[0])}.json").is_file()
