"""``import medssl_monai``: the names that it offers, what they cost, and that no submodule takes a name's place."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

import medssl_monai
from medssl_monai.ingest import SliceStore
from medssl_monai.runs.pretrain import PretrainedRun, pretrain

FACE = {
    *("build_store", "open_store", "SliceStore", "SliceDataset", "read_labels", "pretrain", "finetune"),
    *("evaluate", "predict", "study"),
    *("load_encoder", "load_into_resnet", "load_into_unet", "export_run", "SwAV", "MoCo", "BYOL", "SparK"),
    *("MedSSLError", "InputError", "__version__"),
}
SMALL = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "num_workers": 0, "device": "cpu"}


def test_the_face_is_these_names() -> None:
    assert set(medssl_monai.__all__) == FACE
    assert set(dir(medssl_monai)) >= FACE
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        medssl_monai.pretrian  # noqa: B018


@pytest.mark.parametrize("name", sorted(FACE - {"__version__"}))
def test_each_name_is_a_function_or_class_that_says_what_it_does(name: str) -> None:
    found = getattr(medssl_monai, name)
    assert callable(found)
    assert found.__name__ == name
    assert found.__doc__


@pytest.mark.parametrize("name", sorted(FACE - {"__version__"}))
def test_no_submodule_has_a_name_of_the_face(name: str) -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(f"medssl_monai.{name}")


def test_importing_costs_nothing() -> None:
    """The least processor time of several imports, each in its own interpreter: other processes do not count."""
    program = (
        "import sys, time; known = set(sys.modules); started = time.process_time(); import medssl_monai\n"
        "print(time.process_time() - started)\n"
        "heavy = {'torch', 'monai', 'numpy', 'pyarrow', 'pydicom', 'typer'} & (set(sys.modules) - known)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    answers = [
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
        for _ in range(3)
    ]
    assert min(float(one.stdout) for one in answers) < 0.05


@pytest.mark.slow
def test_every_name_stands_whatever_was_imported_before() -> None:
    """Importing a submodule sets an attribute of the package: it must never hide a function of the face."""
    program = (
        "import importlib, pkgutil, medssl_monai\n"
        "modules = ['medssl_monai.experiment.run', 'medssl_monai.runs.pretrain', 'medssl_monai.ingest.open_store']\n"
        "modules += [f'medssl_monai.{one.name}' for one in pkgutil.iter_modules(medssl_monai.__path__)]\n"
        "for module in modules:\n"
        "    if module != 'medssl_monai.__main__': importlib.import_module(module)\n"
        "for name in set(medssl_monai.__all__) - {'__version__'}:\n"
        "    assert callable(getattr(medssl_monai, name)), name\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_pretrain_says_what_it_left(phantom_store: SliceStore, tmp_path: Path) -> None:
    short = {**SMALL, "max_epochs": 2, "decoder_width": 32}
    run = pretrain("spark", phantom_store, tmp_path / "run", config="demo", **short)
    assert run == PretrainedRun(tmp_path / "run")
    medssl_monai.load_into_resnet(__import__("torchvision").models.resnet18(), run.encoder)
    history = (run.folder / "logs" / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert f'"loss": {run.loss!r}' in history[-1]
    assert {one["step"] for one in run.probes} == {len(history)}
    assert {"label", "knn", "linear", "chance"} <= run.probes[0].keys()
    assert run.collapse["step"] == len(history)
    assert run.collapse["collapsed"] is False
    with pytest.raises(medssl_monai.InputError, match="must be one of spark, swav, moco, byol"):
        pretrain("spork", phantom_store, tmp_path / "other")
    with pytest.raises(medssl_monai.InputError, match="must be a pre-training run"):
        _ = PretrainedRun(tmp_path / "other").loss


def test_study_takes_a_name(tmp_path: Path) -> None:
    with pytest.raises(medssl_monai.InputError, match="study 'nosuch' is neither a YAML file nor one of"):
        medssl_monai.study("nosuch", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pretrain("spark", "store", cast(Any, None)), "out: must be a path, found None"),
        (lambda: pretrain("spark", cast(Any, ["store", 3]), "run"), "data: must be a path, found 3"),
        (lambda: pretrain("spark", [], "run"), r"data: must be a path, found \[\]"),
        (lambda: medssl_monai.finetune("l.csv", ""), "out: must be a path, found ''"),
        (lambda: medssl_monai.finetune(cast(Any, None), "run"), "data: must be a path, found None"),
        (lambda: medssl_monai.evaluate(cast(Any, None), "l.csv", "out"), "run: must be a path, found None"),
        (lambda: medssl_monai.predict(cast(Any, 3), "in", "out"), "run: must be a path, found 3"),
        (lambda: medssl_monai.study("study_demo", cast(Any, None)), "out: must be a path, found None"),
        (lambda: medssl_monai.build_store(cast(Any, [None]), "out"), "source None: must be a path"),
        (lambda: medssl_monai.build_store(["."], "out", key=cast(Any, "secret")), "key: must be bytes, found str"),
    ],
)
def test_what_is_no_path_is_refused(
    call: Callable[[], object], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(medssl_monai.InputError, match=words):
        call()
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_built_from_one_source_or_several(phantom_labels: Path, tmp_path: Path) -> None:
    folder = phantom_labels.parent / "phantom-001"
    one = medssl_monai.build_store(str(folder), tmp_path / "one", progress=False)
    assert one.slices == medssl_monai.build_store([folder], tmp_path / "list", progress=False).slices == 6
