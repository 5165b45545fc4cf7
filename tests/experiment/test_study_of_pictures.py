"""A study of pictures: pre-trained on an archive of other pictures, file facts, contradictions, folds, checkpoints."""

import csv
import json
import os
import re
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.errors import ConfigError
from medssl_monai.experiment.inputs import prepare
from medssl_monai.experiment.plan import EncoderSource, StudyPlan, read_plan
from medssl_monai.experiment.report import markdown_tables, statements
from medssl_monai.experiment.results import StudyResults
from medssl_monai.experiment.run import study
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.store.reader import SliceStore
from tests.csv_rows import rows

TINY = {"arch": "resnet18", "image_size": 32, "batch_size": 4, "num_workers": 0, "device": "cpu"}
TINY |= {"max_epochs": 3, "epoch_length": 1, "frozen_epochs": 0, "augment": False, "val_metric": "auc"}
SHORT = {"max_epochs": 2, "epoch_length": 1, "batch_size": 4, "guard_interval": 9, "probe_interval": 9}


def draw(path: Path, seed: int, level: int = 120) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(level, 40, (40, 40)).clip(0, 255).astype(np.uint8)
    Image.fromarray(values).save(path, quality=95)


@pytest.fixture(scope="module")
def covid_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """COVID pictures are PNG files, the others JPEG, as it often is; one picture stands in both classes."""
    root = tmp_path_factory.mktemp("covid")
    rows = []
    for split, count in (("train", 8), ("val", 3), ("test", 6)):
        for name, ending in (("COVID", "png"), ("NonCOVID", "jpg")):
            files = [f"{split}-{name}{i}.{ending}" for i in range(count)]
            for i, picture in enumerate(files):
                draw(root / f"CT_{name}" / picture, seed=zlib.crc32(picture.encode()))
                rows.append((f"CT_{name}/{picture}", f"{split} {name} {i // 2}"))
            (root / "Data-split" / name).mkdir(parents=True, exist_ok=True)
            (root / "Data-split" / name / f"{split}CT_{name}.txt").write_text("\n".join(files))
    (root / "CT_NonCOVID" / "train-NonCOVID0.jpg").write_bytes((root / "CT_COVID" / "test-COVID0.png").read_bytes())
    with (root / "patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "patient_id"), *rows])
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number in range(8):
        draw(folder / f"series{number // 2}_{number}.png", number)
    return folder


@pytest.fixture(scope="module")
def plan(covid_root: Path, archive: Path) -> StudyPlan:
    source = EncoderSource(None, "ct_ssl_spark", SHORT, ("small", "pictures"), seeds=2)
    return StudyPlan(
        "COVID-CT",
        {"images": "covid_ct", "root": str(covid_root), "patients": str(covid_root / "patients.csv")},
        {"scratch": EncoderSource(), "SparK": source},
        settings=TINY,
        heads=("finetune", "linear"),
        fractions=(1.0,),
        seeds=(0, 1),
        metric="auc",
        baseline="scratch",
        pretrain_on=str(archive),
        pretrain_with={"patient_from": "^(series[0-9]+)_"},
        file_facts=True,
        neighbours=True,
        published=({"name": "a|b", "auc": 0.9, "note": "as published"},),
    )


@pytest.fixture(scope="module")
def done(plan: StudyPlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, Path]:
    out = tmp_path_factory.mktemp("study")
    return study(plan, out), out


@pytest.mark.slow
def test_each_seed_has_an_encoder_of_its_own(done: tuple[StudyResults, Path], plan: StudyPlan) -> None:
    _, out = done
    runs = [json.loads((out / "encoders" / f"spark-seed{seed}" / "run.json").read_text()) for seed in range(2)]
    assert [run["settings"]["seed"] for run in runs] == [0, 1]
    weights = [(out / "encoders" / f"spark-seed{seed}" / "models" / "encoder.safetensors") for seed in range(2)]
    assert weights[0].read_bytes() != weights[1].read_bytes()
    inputs = prepare(plan, out)
    used = [Path(inputs.weights("SparK", seed) or "").name for seed in range(3)]
    assert used == ["spark-seed0", "spark-seed1", "spark-seed0"]
    assert inputs.weights("scratch", 1) is None


@pytest.mark.slow
def test_encoders_are_pre_trained_side_by_side(plan: StudyPlan, tmp_path: Path) -> None:
    """They are those of one process with as many threads, bit for bit; another number of threads rounds differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 2))
    try:
        prepare(plan, tmp_path / "alone")
    finally:
        torch.set_num_threads(threads)
    prepare(replace(plan, workers=2), tmp_path / "beside")
    for seed in range(2):
        alone, beside = (tmp_path / name / "encoders" / f"spark-seed{seed}" for name in ("alone", "beside"))
        assert (beside / "study.sha256").read_text() == (alone / "study.sha256").read_text()
        first, second = (load_encoder(folder)[0] for folder in (alone, beside))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert "step/s" in beside.with_name(f"{beside.name}.log").read_text()
    prepare(replace(plan, workers=2), tmp_path / "beside")  # both are done


def test_a_stopped_pre_training_with_other_settings_is_set_aside(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stopped(method: str, store: Path, folder: Path, **settings: Any) -> None:
        (folder / "begun").write_text(str(settings["learning_rate"]))
        raise KeyboardInterrupt

    def with_rate(rate: float) -> StudyPlan:
        source = plan.encoders["SparK"]
        settings = {**source.settings, "learning_rate": rate}
        return replace(plan, encoders={"SparK": replace(source, settings=settings)}, baseline="SparK")

    monkeypatch.setattr("medssl_monai.experiment.encoders.pretrain", stopped)
    for rate in (0.1, 0.1, 0.2):
        with pytest.raises(KeyboardInterrupt):
            prepare(with_rate(rate), tmp_path)
    aside = tmp_path / "set_aside" / "encoders"
    assert [path.name for path in aside.iterdir()] == ["spark-seed0.1"]
    assert (aside / "spark-seed0.1" / "begun").read_text() == "0.1"
    assert (tmp_path / "encoders" / "spark-seed0" / "begun").read_text() == "0.2"
    assert "encoders/spark-seed0 is of other settings or images; it is kept in set_aside" in caplog.text


@pytest.mark.slow
def test_contradicting_pictures_are_not_learned_from_and_count_officially_alone(
    done: tuple[StudyResults, Path],
) -> None:
    results, out = done
    assert results.record["contradicting"] == 2
    for row in rows(out / "results.csv"):
        assert row["train_slices"] == "15", "one of 16 also stands in the other class"
        assert row["test_slices"] == "12"
        held = rows(
            out
            / "cells"
            / f"{row['encoder'].lower().replace(' ', '_')}-{row['head']}-1-seed{row['seed']}"
            / "evaluation"
            / "predictions.csv"
        )
        assert len(held) == 12
        right = [one["label"] == max(("COVID", "NonCOVID"), key=lambda c: float(one[f"p_{c}"])) for one in held]
        assert float(row["official_accuracy"]) == pytest.approx(np.mean(right), abs=1e-5)
        wrong = 0  # test-COVID0 is the first of the test part
        assert float(row["accuracy"]) == pytest.approx(np.mean(np.delete(right, wrong)), abs=1e-5)
    assert any("stand in two classes" in sentence for sentence in statements(results))


@pytest.mark.slow
def test_what_the_files_tell_without_anatomy_is_a_row(done: tuple[StudyResults, Path]) -> None:
    results, _ = done
    facts = [point for point in results.points if point.head == "facts"]
    assert [point.mean for point in facts] == [1.0], "the file format tells the class"
    assert {contrast.encoder for contrast in results.contrasts} == {"SparK"}, "it has no baseline to be tested against"


@pytest.mark.slow
def test_neighbouring_checkpoints_are_judged(done: tuple[StudyResults, Path]) -> None:
    results, out = done
    for row in rows(out / "results.csv"):
        if row["head"] != "finetune":
            assert row["moves"] == ""
            continue
        folder = out / "cells" / f"{row['encoder'].lower()}-finetune-1-seed{row['seed']}"
        assert row["best_epoch"] in "123"
        beside = {path.name for path in (folder / "neighbours").iterdir()}
        assert beside == {"1": {"+1"}, "2": {"-1", "+1"}, "3": {"-1"}}[row["best_epoch"]]
        assert 0 <= float(row["moves"]) <= 1
        assert not (folder / "run" / "models").exists()
    assert all((point.moves is None) == (point.head != "finetune") for point in results.points)


@pytest.mark.slow
def test_the_report_has_all_figures_and_what_others_published(done: tuple[StudyResults, Path]) -> None:
    results, out = done
    text = markdown_tables(results)
    assert r"| a\|b | as published | 0.9 | – | – | – | – | – |" in text
    assert "| file facts | random forest, no network | 1.000" in text
    assert "'official' is the AUC" in text
    page = (out / "report.html").read_text()
    assert "what the labels give away without anatomy" in page.replace("\n", " ")
    figures = rows(out / "figures.csv")
    assert {row["figure"] for row in figures} == {"accuracy", "balanced_accuracy", "auc", "f1_macro"}
    assert len(figures) == 4 * len(results.points)
    private = ("test-COVID", "patients.csv", "series3")
    told = [out / name for name in ("report.html", "tables.md", "study.json", "results.csv")]
    assert not any(name in path.read_text() for name in private for path in told)


def test_test_pictures_in_the_archive_are_told(
    plan: StudyPlan, covid_root: Path, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    large = Image.open(covid_root / "CT_COVID" / "test-COVID3.png").resize((96, 96), Image.Resampling.BICUBIC)
    root, mixed = Path(shutil.copytree(covid_root, tmp_path / "root")), Path(shutil.copytree(archive, tmp_path / "a"))
    large.save(root / "CT_COVID" / "test-COVID3.png")
    large.save(mixed / "series9_9.png")
    places = {"images": "covid_ct", "root": str(root)}
    changed = replace(plan, data=places, pretrain_on=str(mixed), heads=("linear",), seeds=(0,), neighbours=False)
    results = study(replace(changed, file_facts=False), tmp_path / "out")
    assert "CT_COVID/test-COVID3.png look alike" in caplog.text
    assert results.record["overlap"] == 1
    assert any("found 1 of them there" in sentence for sentence in statements(results))


def test_an_archive_for_slices_in_hu_is_read_as_ct(tmp_path: Path) -> None:
    labels = write_phantom(tmp_path / "phantom", patients=12, seed=0, size=32, slices=3)
    write_phantom(tmp_path / "archive", patients=3, seed=5, size=32, slices=3)
    plan = StudyPlan(
        "CT",
        {"labels": str(labels)},
        {"scratch": EncoderSource(), "SparK": EncoderSource(None, "ct_ssl_spark", SHORT, ("small",))},
        settings=TINY,
        heads=("knn",),
        fractions=(1.0,),
        seeds=(0,),
        baseline="scratch",
        pretrain_on=str(tmp_path / "archive"),
    )
    results = study(plan, tmp_path / "out")
    assert SliceStore(tmp_path / "out" / "data" / "archive_store").select([["modality", "!=", "CT"]]) == []
    assert results.record["overlap"] == 0
    assert "on unlabelled images" in results.record["encoders"]["SparK"]


def test_pictures_of_the_task_are_seen_without_their_labels(plan: StudyPlan, tmp_path: Path) -> None:
    source = EncoderSource(None, "ct_ssl_spark", SHORT, ("small", "pictures"), on="both")
    both = replace(plan, encoders={"scratch": EncoderSource(), "both": source}, heads=("linear",), seeds=(0,))
    both = replace(both, file_facts=False, neighbours=False)
    results = study(both, tmp_path / "out")
    assert "unlabelled and training images" in results.record["encoders"]["both"]
    verdicts = (tmp_path / "out" / "data" / "both_store" / "verdicts.jsonl").read_text().splitlines()
    assert len(verdicts) == 8 + 15, "the archive, and the training pictures that do not contradict"
    with pytest.raises(ConfigError, match=r"pretrain_on: .* does not exist"):
        study(replace(both, pretrain_on=str(tmp_path / "none")), tmp_path / "other")


@pytest.fixture(scope="module")
def head_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("head")
    labels = ["id, hemorrhage"]
    for number in range(30):
        draw(root / "head_ct" / f"{number:03d}.png", number, level=90 if number < 15 else 160)
        labels.append(f"{number},{int(number < 15)}")
    (root / "labels.csv").write_text("\n".join(labels))
    return root


@pytest.mark.slow
def test_folds_are_a_cross_validation(head_root: Path, tmp_path: Path) -> None:
    plan = StudyPlan(
        "head",
        {"images": "head_ct", "root": str(head_root)},
        {"scratch": EncoderSource()},
        settings=TINY,
        heads=("linear", "finetune"),
        fractions=(1.0,),
        seeds=tuple(range(5)),
        baseline="scratch",
        metric="auc",
    )
    results = study(plan, tmp_path / "out")
    for head in plan.heads:
        cells = [tmp_path / "out" / "cells" / f"scratch-{head}-1-seed{seed}" for seed in range(5)]
        tested = [row["series_id"] for cell in cells for row in rows(cell / "evaluation" / "predictions.csv")]
        assert len(tested) == len(set(tested)) == 30, "each picture is tested on once"
    assert (results.record["folds"], results.record["test_slices"], results.record["test_patients"]) == (5, 30, 30)
    for point in results.points:
        assert None not in (point.low, point.mean, point.high)
        low, mean, high = (float(value) for value in (point.low, point.mean, point.high) if value is not None)
        assert low <= mean <= high, "an interval is of the mean over folds"
    assert "bootstrap over 30 patients" in results.interval_note
    assert any("one of 5 stratified folds" in sentence for sentence in statements(results))
    with pytest.raises(ConfigError, match=r"on: task: the task has no training pictures .*--pretrain-on"):
        study(replace(plan, encoders={"x": EncoderSource(bundle="ct_ssl_spark")}, baseline="x"), tmp_path / "no")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"images": "covid_ct"}}, "images need root"),
        ({"data": {"labels": "x.csv"}, "file_facts": True}, "only of pictures"),
        ({"encoders": {"x": {"pretrain": "ct_ssl_spark", "seeds": 0}}}, "seeds must be 1 or more"),
        ({"encoders": {"x": {"pretrain": "ct_ssl_spark", "on": "tests"}}}, "on one of archive, task, both"),
        ({"encoders": {"x": {"pretrain": "ct_ssl_spark", "on": "archive"}}}, "--pretrain-on"),
        ({"encoders": {"file facts": None}}, "take another"),
        ({"published": [{"auc": 0.9}]}, "published: each with name"),
        ({"pretrain_with": {"patient": "x"}}, "pretrain_with: patient_from and patients"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {"data": {"images": "covid_ct", "root": "x"}, "encoders": {"scratch": None}, **change}
    (tmp_path / "study.yaml").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=re.escape(message)):
        read_plan(tmp_path / "study.yaml")
