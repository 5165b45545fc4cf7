"""What a label server decides without MONAI Label: addresses, labels, settings of a request, what is open."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.label_server import launch
from medssl_monai.label_server.class_labels import ClassLabel, LabelledSeries, label_table, parse_class_label
from medssl_monai.label_server.endpoints import OPEN, is_open, role_of
from medssl_monai.label_server.launch import check_address, label_python, server_command, server_environment
from medssl_monai.label_server.records import Records
from medssl_monai.label_server.training import KEPT_RUNS, _drop_old_runs, _new_run, plain_settings
from medssl_monai.label_server.workspace import ServerSettings, Workspace, limit_folder


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_no_leave(host: str) -> None:
    check_address(host, 8000, allow_remote=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "label.hospital.example", ""])
def test_other_addresses_are_refused_without_the_flag(host: str) -> None:
    with pytest.raises(ConfigError, match="no passwords"):
        check_address(host, 8000, allow_remote=False)
    check_address(host, 8000, allow_remote=True)


def test_ports() -> None:
    with pytest.raises(ConfigError, match="1 to 65535"):
        check_address("127.0.0.1", 0, allow_remote=False)


def test_the_python_with_monai_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(launch, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="make label-env"):
        label_python()
    with pytest.raises(ConfigError, match="no such file"):
        label_python(tmp_path / "python")
    python = tmp_path / "checkout" / ".venv-label" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    assert label_python() == python
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert label_python() == Path(sys.executable)


def test_command_and_environment(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    settings = ServerSettings(studies="http://127.0.0.1:8042/dicom-web")
    command = server_command(Path("/env/bin/python"), workspace, settings, "127.0.0.1", 8001)
    assert command[:4] == ["/env/bin/python", "-m", "monailabel.main", "start_server"]
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--uvicorn_app") + 1] == "medssl_monai.label_server.server:app"
    base = {"MEDSSL_DICOMWEB_USER": "reader", "MEDSSL_DICOMWEB_PASSWORD": "secret", "PATH": "/bin"}
    environment = server_environment(workspace, settings, "127.0.0.1", base)
    assert environment["TMPDIR"] == str(tmp_path / "w" / "tmp")
    assert environment["MONAI_LABEL_DICOMWEB_PASSWORD"] == "secret"
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert "secret" not in " ".join(command)


def test_workspace_is_private_and_passing_files_go(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.prepare()
    assert workspace.root.stat().st_mode & 0o077 == 0
    (workspace.tmp / "upload.dcm").touch()
    (workspace.labels / "label.json").touch()
    workspace.prepare()
    assert not list(workspace.tmp.iterdir())
    assert (workspace.labels / "label.json").exists()
    with pytest.raises(ConfigError, match="label-serve"):
        workspace.settings()
    settings = ServerSettings(studies="/data", modality="DX", query={"StudyDate": "2024"})
    workspace.write_settings(settings)
    assert workspace.settings() == settings
    assert settings.filters == [["modality", "==", "DX"]]


def test_links_change_in_one_step(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.prepare()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        workspace.point(workspace.current_model, tmp_path / name)
        assert workspace.current_model.resolve() == tmp_path / name
    assert [p.name for p in workspace.models.iterdir()] == ["current"]


def test_the_longest_unused_files_go_first(tmp_path: Path) -> None:
    for number in range(4):
        file = tmp_path / f"{number}.nii.gz"
        file.write_bytes(bytes(100))
        os.utime(file, (number, number))
    assert limit_folder(tmp_path, 250, keep=tmp_path / "0.nii.gz") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.nii.gz", "2.nii.gz", "3.nii.gz"]


@pytest.mark.parametrize(
    ("content", "label"),
    [
        ({"label": "thorax"}, ClassLabel("thorax")),
        ({"slices": {"0": "head", "12": "thorax"}}, ClassLabel(None, {0: "head", 12: "thorax"})),
        ({"label": "thorax", "slices": {"3": "head"}, "user": "me"}, ClassLabel("thorax", {3: "head"})),
        ({"label_info": [{"name": "liver"}]}, None),
        ({}, None),
        ([1], None),
    ],
)
def test_class_labels(content: object, label: ClassLabel | None) -> None:
    assert parse_class_label(content) == label


@pytest.mark.parametrize(
    "content",
    [
        {"label": 3},
        {"label": ""},
        {"label": "a" * 65},
        {"label": "$__import__('os')"},
        {"label": "@network"},
        {"label": "%x"},
        {"label": "a|b"},
        {"label": "a\nb"},
        {"slices": ["head"]},
        {"slices": {"-1": "head"}},
        {"slices": {"1.5": "head"}},
        {"slices": {"x": "head"}},
    ],
)
def test_malformed_class_labels_are_refused(content: object) -> None:
    with pytest.raises(LabelError):
        parse_class_label(content)


@given(st.text(max_size=20))
def test_no_class_name_means_anything_to_a_configuration(name: str) -> None:
    try:
        label = parse_class_label({"label": name})
    except LabelError:
        return
    assert label is not None
    assert label.study is not None
    assert not set("$@%#&|\n\r\"'") & set(label.study)


def series(number: int, label: ClassLabel) -> LabelledSeries:
    return LabelledSeries(f"s{number}", f"p{number}", [0, 1, 2], label)


def test_label_table_keeps_patients_apart() -> None:
    found = label_table([series(i, ClassLabel("ab"[i % 2], {1: "c"})) for i in range(10)], 0.2)
    rows = [line.split(",") for line in found.splitlines()[1:]]
    assert len(rows) == 30
    assert [row[2] for row in rows[:3]] == ["a", "c", "a"]
    splits = {row[3]: {r[4] for r in rows if r[3] == row[3]} for row in rows}
    assert all(len(found) == 1 for found in splits.values())
    assert sum("validation" in found for found in splits.values()) == 2


def test_label_table_without_enough() -> None:
    with pytest.raises(LabelError, match="two classes or more, found a"):
        label_table([series(0, ClassLabel("a"))], 0.2)
    with pytest.raises(LabelError, match="found none"):
        label_table([], 0.2)
    with pytest.raises(LabelError, match="slice 7 is not among"):
        label_table([series(0, ClassLabel("a", {7: "b"}))], 0.2)
    with pytest.raises(LabelError, match="val_split"):
        label_table([series(0, ClassLabel("a"))], 1.0)
    one_patient = label_table([series(0, ClassLabel("a", {1: "b"}))], 0.2)
    assert {line.rsplit(",", 1)[1] for line in one_patient.splitlines()[1:]} == {"train"}


def test_settings_of_a_request_cannot_run_code() -> None:
    assert plain_settings({"max_epochs": 2, "arch": "resnet18", "window": [-1000, 400], "other": "$1"}) == {
        "max_epochs": 2,
        "arch": "resnet18",
        "window": [-1000, 400],
    }
    for value in ("$__import__('os').system('id')", "@network", "%a", {"_target_": "os.system"}, ["$1"], "a b"):
        with pytest.raises(ConfigError, match="plain word"):
            plain_settings({"arch": value})


@pytest.fixture
def records(tmp_path: Path) -> Records:
    workspace = Workspace(tmp_path / "w")
    workspace.prepare()
    return Records(workspace)


def test_records(records: Records, tmp_path: Path) -> None:
    file = tmp_path / "label.json"
    file.write_text(json.dumps({"label": "thorax"}))
    assert records.class_label("s1") is None
    records.save_label("s1", file, "final", {"user": "me"})
    assert records.class_label("s1") == ClassLabel("thorax")
    assert json.loads(records.label_file("s1", "final").read_text()) == {"label": "thorax"}
    records.note_label("s1", "final", {"label": "head"})
    assert Records(records.workspace).class_label("s1") == ClassLabel("head")
    records.note("s1", {"strategy": {"diverse": 1}})
    assert records.read("s1")["info"] == {"strategy": {"diverse": 1}}
    records.remove_label("s1", "final")
    assert records.class_label("s1") is None
    with pytest.raises(LabelError, match="has none of this tag"):
        records.label_file("s1", "final")


def test_labels_stay_in_their_folder(records: Records, tmp_path: Path) -> None:
    file = tmp_path / "label.json"
    file.write_text("{}")
    for tag in ("../../x", "a/b", "", "a" * 65):
        with pytest.raises(LabelError):
            records.save_label("s1", file, tag, {})
    odd = tmp_path / "label.a b"
    odd.write_text("")
    with pytest.raises(LabelError, match="suffix"):
        records.save_label("s1", odd, "final", {})
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(LabelError, match="is not JSON"):
        records.save_label("s1", broken, "final", {})
    assert not list(records.workspace.labels.rglob("*.*"))


def test_a_class_and_a_segmentation_do_not_replace_each_other(records: Records, tmp_path: Path) -> None:
    drawn, said, other = tmp_path / "label.nii.gz", tmp_path / "label.json", tmp_path / "other.json"
    drawn.write_bytes(b"a segmentation")
    said.write_text('{"label": "thorax"}')
    other.write_text('{"label": "head"}')
    for order in ((drawn, said), (said, drawn)):
        name = f"image-{order[0].suffix[1:]}"
        for file in order:
            records.save_label(name, file, "final", {})
        assert records.class_label(name) == ClassLabel("thorax")
        kept = {records.label_file(name, tag).read_bytes() for tag in records.read(name)["labels"]}
        assert kept == {drawn.read_bytes(), said.read_bytes()}
        records.save_label(name, other, "final", {})
        assert records.class_label(name) == ClassLabel("head")
        assert b"a segmentation" in {records.label_file(name, tag).read_bytes() for tag in records.read(name)["labels"]}
        records.remove_label(name, records.class_tag(name))
        assert records.class_label(name) is None
        assert b"a segmentation" in {records.label_file(name, tag).read_bytes() for tag in records.read(name)["labels"]}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/model/classification"),
        ("DELETE", "/model/classification"),
        ("GET", "/model/classification"),
        ("POST", "/reload"),
        ("GET", "/logs/"),
        ("GET", "/logs/gpu"),
        ("GET", "/datastore/dataset"),
        ("DELETE", "/datastore/image"),
        ("POST", "/train/"),
        ("POST", "/infer/wsi/classification"),
        ("POST", "/scoring/dice"),
        ("GET", "/login/"),
        ("POST", "/proxy/dicom/stow/studies"),
        ("GET", "/infer/classification/../../reload"),
    ],
)
def test_dangerous_endpoints_are_closed(method: str, path: str) -> None:
    assert not is_open(method, path, pacs=True)
    assert role_of(method, path) is None


def test_no_path_matches_two_patterns() -> None:
    paths = ["/", "/docs", "/info/", "/datastore/", "/datastore/image", "/datastore/label", "/datastore/label/info"]
    paths += ["/session/", "/infer/a", "/activelearning/a", "/model/info/a", "/train/", "/train/a", "/batch/infer"]
    paths += ["/form/", "/form/next", "/form/class", "/batch/infer/a", "/static/a", "/ohif/", "/proxy/dicom/a"]
    patterns = {one.pattern for one in OPEN}
    for path in paths:
        assert sum(re.fullmatch(pattern, path) is not None for pattern in patterns) == 1, path
    assert all(any(re.fullmatch(pattern, path) for path in paths) for pattern in patterns)


def test_open_endpoints() -> None:
    assert is_open("GET", "/info/", pacs=False)
    assert is_open("POST", "/infer/classification", pacs=False)
    assert is_open("GET", "/proxy/dicom/qido/studies", pacs=True)
    assert not is_open("GET", "/proxy/dicom/qido/studies", pacs=False)
    assert role_of("POST", "/train/finetuning") == "trainer"
    assert role_of("GET", "/train/") == "annotator"
    assert role_of("DELETE", "/train/") == "trainer"


def test_stopped_trainings_go_and_the_newest_runs_stay(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "w")
    workspace.prepare()
    runs = []
    for number in range(KEPT_RUNS + 3):
        run = _new_run(workspace, "finetuning")
        (run / "models").mkdir()
        (run / "models" / "model.pt").touch()  # after the first epoch already
        if number != 2:
            (run / "checkpoints").rmdir()  # ended
        runs.append(run)
    workspace.point(workspace.current_model, runs[0])
    _drop_old_runs(workspace)
    assert sorted(workspace.runs.iterdir()) == [runs[0], *runs[3:]]
