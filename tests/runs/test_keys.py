"""Keys that no bundle has, and configurations for other bundles, are one sentence, in `medssl` and under MONAI."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from monai.bundle import ConfigWorkflow, create_workflow

from medssl_monai.cli.main import main
from medssl_monai.errors import ConfigError, InputError
from medssl_monai.ingest import SliceStore
from medssl_monai.resources import bundle_dir, config_file, resource_dir
from medssl_monai.runs.bundle import cause_of, run_bundle
from medssl_monai.runs.folder import check_output, record_run
from medssl_monai.runs.keys import FOR_BUNDLES, bundle_keys, check_keys
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.runs.settings import literal

BUNDLES = sorted(path.name for path in resource_dir("bundles").iterdir() if path.name.startswith("ct_"))
SMALL = {"arch": "resnet18", "image_size": 32, "batch_size": 6, "num_workers": 0, "max_epochs": 1, "device": "cpu"}


def train_file(bundle: str) -> Path:
    return bundle_dir(bundle) / "configs" / "train.yaml"


def run(bundle: str, tmp_path: Path, *overlays: Path, **settings: Any) -> None:
    places = {"dataset_dir": str(tmp_path / "missing"), "output_dir": str(tmp_path / "run")}
    run_bundle([train_file(bundle), *overlays], {**places, **SMALL, **settings})


@pytest.mark.parametrize(
    ("bundle", "overlay", "told"),
    [
        ("ct_ssl_spark", "paper_finetune", "paper_finetune.yaml is for ct_classification, and ct_ssl_spark is run"),
        ("ct_ssl_spark", "demo_finetune", "demo_finetune.yaml is for ct_classification"),
        ("ct_ssl_spark", "paper_moco", "paper_moco.yaml is for ct_ssl_moco, and ct_ssl_spark is run; leave it out"),
        ("ct_classification", "small", "small.yaml is for ct_ssl_byol, ct_ssl_moco, ct_ssl_spark, ct_ssl_swav, and"),
    ],
)
def test_overlays_of_other_bundles_are_refused(bundle: str, overlay: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        run(bundle, tmp_path, config_file(overlay))
    assert list(tmp_path.iterdir()) == []


def test_mistyped_names_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match=r"'study_demo' is neither .*\(it is a plan for `medssl study study_demo`\)"):
        config_file("study_demo")
    with pytest.raises(ConfigError, match=r"'smal' is neither .*\(did you mean 'small'\?\)"):
        config_file("smal")
    with pytest.raises(ConfigError, match=r"method 'sprak': must be one of .* \(did you mean 'spark'\?\); choose one"):
        pretrain("sprak", "STORE", "RUN")
    with pytest.raises(ConfigError, match=r"bundle 'ct_ssl_sprak' does not exist \(did you mean 'ct_ssl_spark'\?\)"):
        bundle_dir("ct_ssl_sprak")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "max_epoch: 3",
            r"own\.yaml: 'max_epoch' is not a key of ct_ssl_moco \(did you mean 'max_epochs'\?\); `medssl k",
        ),
        ("train#optimiser#momentum: 0.8", r"own\.yaml: cannot be merged .*optimiser"),
        ("train#optimiser: 0.8", r"'train#optimiser' is not a key of .* \(did you mean 'train#optimizer'\?\)"),
        ("probe_view#augmented: true", "LabelledViewd"),  # an argument that the component does not take
        ("learning_rate: '@learning_rate_shrt'", "refers to @learning_rate_shrt, which it does not define"),
        ("learning_rate: $lr * 2", r"cannot be evaluated \(NameError: name 'lr' is not defined\)"),
        ("learning_rate: $0.1 +", "cannot be evaluated .SyntaxError"),
        ("- a\n- b", r"own\.yaml: must hold names with values, found list"),
        ("", "found nothing"),
        ("batch_size: [1", r"own\.yaml: not readable as YAML \(while parsing a flow sequence"),
        ("seed: 1\nseed: 2", "cannot be merged .Duplicate key"),
    ],
)
def test_what_an_overlay_may_not_hold(text: str, told: str, tmp_path: Path, phantom_store: SliceStore) -> None:
    overlay = tmp_path / "own.yaml"
    overlay.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        run("ct_ssl_moco", tmp_path, overlay, dataset_dir=str(phantom_store.path), probe_interval=9)
    assert list(tmp_path.iterdir()) == [overlay]


def test_keys_that_an_overlay_sets_for_other_methods_may_not_be_given(tmp_path: Path) -> None:
    told = "'queue_length' is not a key of ct_ssl_spark .*; `medssl keys ct_ssl_spark` lists the keys"
    with pytest.raises(ConfigError, match=told):
        run("ct_ssl_spark", tmp_path, config_file("demo"), queue_length=8)


def test_a_warm_up_as_long_as_the_run_is_refused_before_anything_is_written(
    tmp_path: Path, phantom_store: SliceStore
) -> None:
    settings = {"dataset_dir": str(phantom_store.path), "image_size": 64, "warmup_epochs": 1}
    with pytest.raises(ConfigError, match="warmup_epochs: the warm-up must end before the run"):
        run("ct_ssl_spark", tmp_path, **settings)
    assert list(tmp_path.iterdir()) == []


def test_what_an_overlay_may_hold() -> None:
    known = yaml.safe_load(train_file("ct_ssl_moco").read_text(encoding="utf-8"))
    check_keys({**known, "_mine": 1, "tracking_uri": "x"}, "ct_ssl_moco")
    optimizer = {**known["train"]["optimizer"], "decay_all": True}
    check_keys({**known, "train": {**known["train"], "optimizer": optimizer}}, "ct_ssl_moco")
    shared = {**known, "decoder_width": 128}
    check_keys({**shared, FOR_BUNDLES: ["ct_ssl_spark", "ct_ssl_moco"]}, "ct_ssl_moco")
    with pytest.raises(ConfigError, match="the configuration: 'decoder_width' is not a key of ct_ssl_moco"):
        check_keys(shared, "ct_ssl_moco")


def as_monai(bundle: str, *overlays: str, run_id: str = "run", **settings: Any) -> None:
    files = [str(train_file(bundle)), *(str(config_file(name)) for name in overlays)]
    ConfigWorkflow(
        files, workflow_type="train", logging_file=False, run_id=run_id, **{**SMALL, **settings}
    ).initialize()


@pytest.mark.parametrize(
    ("overlays", "settings", "told"),
    [
        ([], {}, "dataset_dir: needs the data to work on, found nothing; give --dataset_dir PATH"),
        ([], {"dataset_dirr": "x"}, r"'dataset_dirr' is not a key of ct_ssl_moco \(did you mean 'dataset_dir'\?\)"),
        ([], {"dataset_dir": "x", "run_id": "training"}, "run training: ct_ssl_moco has no step of this name"),
        ([], {"dataset_dir": "x", "output_dir": 2026}, "output_dir: must be a path, found 2026; a name that reads as"),
        ([], {"dataset_dir": "data#1"}, r"dataset_dir: MONAI takes no # in a path \(it reads data::1\)"),
        ([], {"dataset_dir": "x", "max_epochs": 0}, "max_epochs: must be a whole number from 1, found 0"),
        (["demo_finetune"], {"dataset_dir": "x"}, "is for ct_classification, and ct_ssl_moco is run"),
    ],
)
def test_monais_own_run_refuses_the_same(
    overlays: list[str], settings: dict[str, Any], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError) as raised:
        as_monai("ct_ssl_moco", *overlays, **settings)
    with pytest.raises(ConfigError, match=told):
        raise cause_of(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_monais_command_checks_each_overlay_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("for_bundles: [ct_ssl_moco]\ntrain#optimizer#lr: 0.5", encoding="utf-8")

    def create(*overlays: str | Path, **settings: Any) -> None:
        files = [str(file) for file in (train_file("ct_ssl_moco"), *overlays)]
        options = {"dataset_dir": "missing", "logging_file": False, "workflow_type": "train", **SMALL, **settings}
        with pytest.warns(UserWarning, match="parsing config_file"), pytest.raises(RuntimeError) as raised:
            create_workflow(config_file=files, **options)
        raise cause_of(raised.value)

    with pytest.raises(ConfigError, match=r"paper_spark\.yaml is for ct_ssl_spark, and ct_ssl_moco is run"):
        create(config_file("paper_spark"), "mine.yaml")  # the last is for this bundle
    with pytest.raises(InputError, match="missing does not exist"):
        create(config_file("demo"), "mine.yaml")  # what the first sets for others stays without effect
    with pytest.raises(ConfigError, match="'decoder_width' is not a key of ct_ssl_moco"):
        create(config_file("demo"), "mine.yaml", decoder_width=64)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run"], "dataset_dir: needs the data to work on"),
        (["run", "training", "--dataset_dir", "x"], "run training: ct_ssl_moco has no step of this name"),
        (["run", "--dataset_dir", "x"], "x does not exist"),
        (["run", "--dataset_dir", "$x"], "an expression of the configuration cannot be evaluated (NameError"),
    ],
)
def test_monais_command_says_one_sentence(words: list[str], told: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "monai.bundle", *words, "--config_file", str(train_file("ct_ssl_moco"))]
    root = {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, **root}
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert told in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_run_takes_an_empty_folder_or_its_own(tmp_path: Path, phantom_store: SliceStore) -> None:
    check_output(tmp_path / "new", "bundle", "ct_ssl_moco")
    (tmp_path / ".hidden").touch()
    (tmp_path / "checkpoints").mkdir()
    check_output(tmp_path, "bundle", "ct_ssl_moco")
    with pytest.raises(ConfigError, match=r"a run needs a folder of its own, .* found index\.parquet"):
        check_output(phantom_store.path, "bundle", "ct_ssl_moco")
    check_output(phantom_store.path, phantom_store.path, "ct_ssl_moco")  # trained in place
    record_run(tmp_path / "run", bundle_dir("ct_ssl_moco"), {})
    check_output(tmp_path / "run", "bundle", "ct_ssl_moco")
    with pytest.raises(ConfigError, match="found a run of ct_ssl_moco; give another --out"):
        check_output(tmp_path / "run", "bundle", "ct_classification")
    copied = shutil.copytree(bundle_dir("ct_ssl_moco"), tmp_path / "site" / "of_all_sites")
    record_run(tmp_path / "of_a_copy", copied, {}, bundle="ct_ssl_moco")
    check_output(tmp_path / "of_a_copy", copied, "ct_ssl_moco")
    before = sorted(phantom_store.path.rglob("*"))
    with pytest.raises(ConfigError, match="a run needs a folder of its own"):
        run("ct_ssl_moco", tmp_path, dataset_dir=str(phantom_store.path), output_dir=str(phantom_store.path))
    assert sorted(phantom_store.path.rglob("*")) == before


@pytest.mark.parametrize("text", ["", "[]", '{"bundle": "ct_ss', "3"])
def test_a_broken_record_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json: (not readable as JSON|must hold names with values)"):
        check_output(tmp_path, "bundle", "ct_ssl_moco")


@pytest.mark.parametrize("name", ["study #1", "$x", "@me", "%y", "a@b#c", "run", "it's #2"])
def test_paths_are_taken_as_they_stand(name: str, tmp_path: Path) -> None:
    from monai.bundle import ConfigParser

    parser = ConfigParser({"place": literal(name), "below": "$@place + '/models'", "list": literal([name])})
    assert Path(parser.get_parsed_content("place")) == Path(name)
    assert Path(parser.get_parsed_content("below")) == Path(name) / "models"
    assert [Path(each) for each in parser.get_parsed_content("list")] == [Path(name)]


def test_a_run_in_a_folder_with_a_number_sign(
    phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("data#1").symlink_to(phantom_store.path)
    words = ["pretrain", "byol", "--data", "data#1", "--out", "$run@home #2", "--config", "small"]
    words += [f"{name}={value}" for name, value in SMALL.items()] + [
        "epoch_length=1",
        "probe_interval=9",
        "warmup_epochs=0",
    ]
    monkeypatch.setattr(sys, "argv", ["medssl", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert sorted(path.name for path in tmp_path.iterdir()) == ["$run@home #2", "data#1"]
    out = tmp_path / "$run@home #2"
    assert (out / "models" / "encoder.safetensors").is_file()
    workflow = ConfigWorkflow([str(out / "configs" / "inference.yaml")], workflow_type="infer", logging_file=False)
    workflow.initialize()
    assert workflow.parser.get_parsed_content("bundle_root") == str(out)
    kept = yaml.safe_load((out / "configs" / "train.yaml").read_text(encoding="utf-8"))
    assert not {FOR_BUNDLES, "decoder_width"} & set(kept)
    assert json.loads((out / "run.json").read_text(encoding="utf-8"))["bundle"] == "ct_ssl_byol"


@pytest.mark.parametrize("bundle", BUNDLES)
def test_keys_have_names_defaults_and_meanings(bundle: str) -> None:
    keys = {key.name: key for key in bundle_keys(bundle)}
    content = yaml.safe_load(train_file(bundle).read_text(encoding="utf-8"))
    assert next(iter(keys)) == "bundle_root" and "imports" not in keys
    assert list(keys) == [name for name in content if name in keys]
    assert not any(isinstance(content[name], dict) for name in keys)
    for name, key in keys.items():
        assert yaml.safe_load(key.default) == content[name]
    assert keys["epoch_length"].meaning == "steps; null is one pass over the slices"
    with pytest.raises(ConfigError, match="did you mean"):
        bundle_keys(bundle + "x")
