"""The study: its plan, a small one from end to end, what is run again and what is not, its report."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from medssl_monai.errors import InputError
from medssl_monai.experiment import cells, made_by
from medssl_monai.experiment import figure as experiment_figure
from medssl_monai.experiment import inputs as inputs_module
from medssl_monai.experiment.figure import draw_study
from medssl_monai.experiment.judged import Contrast, Judged, contrasts_of, draws, intervals
from medssl_monai.experiment.plan import Cell, EncoderSource, StudyPlan
from medssl_monai.experiment.report import markdown_tables, replace_tables, statements
from medssl_monai.experiment.results import Point, StudyResults
from medssl_monai.experiment.run import study
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.resources import bundle_dir
from medssl_monai.statistics.comparison import delong_test
from medssl_monai.terminal import study_table
from tests.csv_rows import rows

PACKAGE = Path(made_by.__file__).parents[1]
TINY = {"arch": "resnet18", "image_size": 32, "batch_size": 6, "num_workers": 0, "device": "cpu"}
TINY |= {"max_epochs": 1, "epoch_length": 2, "frozen_epochs": 0, "augment": False}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> StudyPlan:
    weights = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    torch.manual_seed(5)
    save_file({k: v.contiguous() for k, v in resnet_encoder("resnet18").state_dict().items()}, weights)
    return StudyPlan(
        title="Tiny & quick",
        data={"phantom": {"patients": 20, "size": 32, "slices": 3, "seed": 0}},
        encoders={"scratch": EncoderSource(), "given": EncoderSource(str(weights))},
        settings=TINY,
        heads=("finetune", "linear"),
        fractions=(0.25, 1.0),
        seeds=(0,),
        baseline="scratch",
    )


@pytest.fixture(scope="module")
def done(plan: StudyPlan, tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyResults, Path]:
    out = tmp_path_factory.mktemp("study")
    return study(plan, out), out


def test_all_cells_are_in_the_results(done: tuple[StudyResults, Path], plan: StudyPlan) -> None:
    results, out = done
    table = rows(out / "results.csv")
    assert len(table) == len(plan.cells) == 8
    assert {r["steps"] for r in table if r["head"] == "finetune"} == {"2"}, "equal budgets"
    by_fraction = {r["fraction"]: (r["train_patients"], r["train_slices"]) for r in table}
    assert by_fraction == {"0.25": ("3", "9"), "1": ("12", "36")}
    assert {r["test_patients"] for r in table} == {"8"}
    assert results.record["subset_unit"] == "patients"
    assert len(rows(out / "comparisons.csv")) == 4
    assert all(c.p is None and "fewer than 10" in c.note for c in results.contrasts)
    for point in results.points:
        mine = [r for r in table if (r["encoder"], r["head"], float(r["fraction"])) == point_key(point)]
        assert point.mean == pytest.approx(np.mean([float(r["balanced_accuracy"]) for r in mine]), abs=1e-5)
        assert point.low is None
    assert study_table(results).row_count == 4


def point_key(point: Point) -> tuple[str, str, float]:
    return (point.encoder, point.head, point.fraction)


def test_features_of_an_untrained_encoder_are_named_as_random(done: tuple[StudyResults, Path]) -> None:
    results, out = done
    tables = (out / "tables.md").read_text(encoding="utf-8")
    tuned, frozen = tables.split("Linear probe, encoder frozen:", 1)
    assert "| scratch |" in tuned and "random features" not in tuned
    assert "| random features |" in frozen.split("All figures", 1)[0]
    assert results.plan.row_name("linear", "given") == "given"


def test_report_stands_alone_and_tells_no_path(done: tuple[StudyResults, Path]) -> None:
    _, out = done
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Tiny &amp; quick" in page
    assert "fewer than 10: too few for an interval" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert str(out) not in page
    assert str(out) not in (out / "study.json").read_text()
    assert (out / "figures" / "study.png").stat().st_size > 10_000


def test_only_what_is_missing_is_run(
    done: tuple[StudyResults, Path], plan: StudyPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, out = done
    ran: list[str] = []
    whole = cells._frozen

    def counted(*arguments: Any) -> Any:
        ran.append(arguments[2].folder)
        return whole(*arguments)

    monkeypatch.setattr(cells, "_frozen", counted)
    monkeypatch.setattr(cells, "_finetune", lambda *_: pytest.fail("a finished cell was trained again"))
    again = study(plan, out)
    assert ran == []
    assert again.points == results.points
    (out / "cells" / "scratch-linear-1-seed0" / "cell.json").unlink()
    assert study(plan, out).points == results.points, "the same seed gives the same figures"
    assert ran == ["scratch-linear-1-seed0"]
    more = replace(plan, heads=("linear", "knn"), encoders={"given": plan.encoders["given"]}, baseline="given")
    found = study(more, out)
    assert ran[1:] == ["given-knn-0.25-seed0", "given-knn-1-seed0"]
    assert found.contrasts == []


def test_what_other_code_made_is_kept_and_told(
    done: tuple[StudyResults, Path],
    plan: StudyPlan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    assert done[0].record["cells_of_other_code"] == 0
    out = Path(shutil.copytree(done[1], tmp_path / "out"))
    linear = replace(plan, heads=("linear",), encoders={"scratch": EncoderSource()})
    ran: list[str] = []

    def remade(_: Any, __: Any, cell: Cell, folder: Path) -> dict[str, Any]:
        ran.append(cell.folder)
        shutil.copytree(done[1] / "cells" / cell.folder / "evaluation", folder / "evaluation")
        return {"steps": 0, "train_slices": 1, "train_patients": 1}

    monkeypatch.setattr(cells, "_frozen", remade)
    mark = out / "cells" / "scratch-linear-1-seed0" / "cell.json"
    content = json.loads(mark.read_text(encoding="utf-8"))
    other = json.dumps({**content, "made_by": {**content["made_by"], "torch": "2.0"}})
    mark.write_text(other)
    found = study(linear, out)
    assert ran == []
    assert found.record["cells_of_other_code"] == 1
    assert "1 of 2 trainings were made by other code or libraries and are kept; give --rerun" in caplog.text
    assert "1 trainings were made by other code" in (out / "report.html").read_text()
    study(linear, out, rerun=True)
    assert ran == ["scratch-linear-1-seed0"]
    aside = out / "set_aside" / "cells" / "scratch-linear-1-seed0"
    assert aside.with_name(f"{aside.name}.1").joinpath("cell.json").read_text() == other
    message = "cells/{0} {1}; it is kept in set_aside/cells/{0}.{2}"
    assert message.format(aside.name, "was made by other code or libraries", 1) in caplog.text
    study(replace(linear, settings={**TINY, "image_size": 48}), out)
    assert len(ran) == 3
    assert message.format(aside.name, "is of other settings, labels, images or weights", 2) in caplog.text
    assert {path.name.rpartition(".")[2] for path in aside.parent.glob(f"{aside.name}.*")} == {"1", "2"}


def test_a_name_does_not_make_a_finished_cell_unfinished(
    done: tuple[StudyResults, Path], plan: StudyPlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _, out = done
    cell = Cell("scratch", "finetune", 0.25, 0)
    inputs = inputs_module.prepare(plan, out)
    assert cells.cell_done(plan, inputs, cell, out)
    assert not cells.cell_done(replace(plan, settings={**TINY, "image_size": 48}), inputs, cell, out)
    before = cells.maker(inputs)
    bundle = Path(shutil.copytree(bundle_dir("ct_classification"), tmp_path / "ct_classification"))
    monkeypatch.setattr(inputs_module, "bundle_dir", lambda _: bundle)
    train = bundle / "configs" / "train.yaml"
    text = train.read_text(encoding="utf-8")

    def after(old: str, new: str) -> tuple[bool, bool]:
        """Whether the cell counts as finished, and as of the same code."""
        assert old in text
        train.write_text(text.replace(old, new), encoding="utf-8")
        return cells.cell_done(plan, inputs, cell, out), cells.maker(inputs) == before

    assert after("import process_rank", "import process_rank # the same") == (True, True)
    assert after("medssl_monai.handlers.history.History", "medssl_monai.diary.History") == (True, False)
    assert after("medssl_monai.handlers.history.History", "medssl_monai.handlers.history.Diary") == (True, False)
    assert after("torch.optim.Adam", "torch.optim.SGD") == (False, True)
    assert after("weight_decay: 5.0e-4", "weight_decay: 5.0e-3") == (False, True)


def test_tables_go_into_a_page(done: tuple[StudyResults, Path], tmp_path: Path) -> None:
    results, out = done
    assert (out / "tables.md").is_file()
    text = markdown_tables(results)
    assert "| encoder | 25%: 3 patients, 9 slices | 100%: 12 patients, 36 slices |" in text
    point = next(p for p in results.points if point_key(p) == ("given", "linear", 1.0))
    assert f"| {point.mean:.3f} ({point.lowest:.3f}–{point.highest:.3f}) |" in text
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tiny -->\nold\n<!-- end tiny -->\nafter\n")
    for _ in range(2):
        replace_tables(page, "tiny", text)
    assert page.read_text() == f"before\n<!-- tiny -->\n{text}<!-- end tiny -->\nafter\n"
    with pytest.raises(InputError, match="needs the lines <!-- other -->"):
        replace_tables(page, "other", text)
    assert "1 of 1 comparisons have p < 0.05" in markdown_tables(contrived())


@pytest.mark.slow
def test_a_cluster_gives_the_same(done: tuple[StudyResults, Path], plan: StudyPlan, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="needs the extra dask")
    linear = replace(plan, heads=("linear",))
    options: Any = {"processes": True, "host": "127.0.0.1", "dashboard_address": None, "n_workers": 1}
    with distributed.LocalCluster(**options, threads_per_worker=1) as cluster:
        found = study(linear, tmp_path / "out", scheduler=cluster.scheduler_address)
    assert found.points == [p for p in done[0].points if p.head == "linear"]
    with (
        distributed.LocalCluster(**options, threads_per_worker=2) as cluster,
        pytest.raises(InputError, match="workers of one thread each, found workers with 2"),
    ):
        study(linear, tmp_path / "other", scheduler=cluster.scheduler_address)


def contrived(heads: tuple[Any, ...] = ("finetune",), metric: str = "balanced_accuracy") -> StudyResults:
    encoders = {name: EncoderSource() for name in ("scratch", "SwAV", "MoCo v2", "BYOL", "SparK")}
    plan = StudyPlan("t", {}, encoders, heads=heads, baseline="scratch", metric=metric)
    points = [
        Point(e, h, f, 3, 0.5 + 0.1 * i * f, 0.44 + 0.1 * i * f, 0.56 + 0.1 * i * f, 0.45, 0.8, 100 * f, None)
        for h in heads
        for i, e in enumerate(encoders)
        for f in plan.fractions
    ]
    record = {"subset_unit": "slices", "classes": ["a", "b"], "test_slices": 9, "test_patients": None, "steps": [0, 5]}
    record |= {"encoders": dict.fromkeys(encoders, "x")}
    return StudyResults(
        plan, ["a", "b"], points, [Contrast("SwAV", "finetune", 0.1, 0.1, 0.0001, 0.001, None, "n")], record, "note"
    )


def test_slices_for_patients_are_labelled_so(tmp_path: Path) -> None:
    results = contrived(("finetune", "linear", "knn"))
    assert any("not a study of few labelled patients" in s for s in statements(results))
    draw_study(results, tmp_path / "study.png")
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("encoders", "shares", "drawn"), [(3, (0.1, 1.0), "bands"), (4, (0.1, 1.0), "bars"), (4, (0.1,), "bars")]
)
def test_many_intervals_stand_side_by_side(
    encoders: int, shares: tuple[float, ...], drawn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(experiment_figure, "save_figure", lambda figure, path, **how: kept.append(figure))
    results = contrived()
    few = dict(list(results.plan.encoders.items())[:encoders])
    points = [p for p in results.points if p.fraction in shares]
    plan = replace(results.plan, encoders=few, fractions=shares)
    draw_study(replace(results, plan=plan, points=points), tmp_path / "study.png")
    assert drawn in kept[0].get_suptitle()
    starts = {
        round(float(np.asarray(line.get_xdata())[0]), 6)
        for line in kept[0].axes[0].lines
        if line.get_marker() != "None"
    }
    assert len(starts) == (1 if drawn == "bands" else encoders)
    assert all(0.9 < start / (100 * min(shares)) < 1.1 for start in starts)


@pytest.mark.parametrize(
    "steps, sentence",
    [
        ([0, 5], "Every fine-tuning took the same number of steps (5), whatever the number of labels."),
        ([0], "No encoder was fine-tuned: all heads are on frozen features."),
    ],
)
def test_the_steps_of_fine_tuning_are_said(steps: list[int], sentence: str) -> None:
    results = contrived()
    results.record["steps"] = steps
    assert sentence in statements(results)[0]


def test_the_folds_of_a_draw_are_averaged() -> None:
    """All folds rank their own slices rightly, with scores of another level in each: a pooled AUC would be 0.6."""
    plan = StudyPlan("t", {}, {"scratch": EncoderSource()}, fractions=(1.0,), baseline="scratch")

    def judged(fold: int) -> Judged:
        labels = np.arange(8) % 2
        scores = 0.15 * fold + 0.1 * labels
        return Judged(labels, np.stack([1 - scores, scores], axis=1), np.array([f"{fold}-{i}" for i in range(8)]))

    inputs: Any = SimpleNamespace(folds=5)
    found = draws(inputs, range(10), [judged(seed % 5) for seed in range(10)])
    assert len(found) == 2
    assert all(one.folds is not None and np.bincount(one.folds).tolist() == [8] * 5 for one in found)
    assert intervals(plan, found)["figures"]["auc"] == [1.0, 1.0]
    _, high = intervals(plan, [replace(one, folds=None) for one in found])["figures"]["auc"]
    assert high < 0.9
    single: Any = SimpleNamespace(folds=0)
    assert all(one.folds is None for one in draws(single, range(2), [judged(0), judged(0)]))


def test_contrasts_of_two_classes_have_delongs_p() -> None:
    plan = StudyPlan("t", {}, {"scratch": EncoderSource(), "a": EncoderSource()}, fractions=(1.0,), baseline="scratch")
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(24) % 2, 3)
    patients = np.repeat([f"p{i:02d}" for i in range(24)], 3)

    def judged(signal: float) -> Judged:
        score = 1 / (1 + np.exp(-generator.normal(signal * (2 * labels - 1), 1)))
        return Judged(labels, np.stack([1 - score, score], axis=1), patients)

    good, poor = judged(3), judged(0)
    (contrast,) = contrasts_of(plan, {("finetune", "scratch", 1.0): poor, ("finetune", "a", 1.0): good})
    assert contrast.encoder == "a"
    assert contrast.difference > 0.3
    assert contrast.p is not None
    assert contrast.p < 0.01
    assert contrast.p_holm == contrast.p
    names = np.arange(24)
    means = [[j.probabilities[patients == f"p{i:02d}", 1].mean() for i in names] for j in (good, poor)]
    wanted = delong_test(names % 2 == 1, np.array(means[0]), np.array(means[1]))
    assert contrast.p_delong == pytest.approx(wanted.p)
    cells = {("finetune", "scratch", 1.0): poor, ("finetune", "a", 1.0): good}
    (folded,) = contrasts_of(plan, cells, folds=True)
    assert (folded.p, folded.p_delong) == (contrast.p, None), "it ranks the scores of one network"
    unknown = replace(good, patients=np.full(72, ""))
    (other,) = contrasts_of(plan, {("finetune", "scratch", 1.0): poor, ("finetune", "a", 1.0): unknown})
    assert (other.p, other.p_holm, other.p_delong) == (None, None, None)
    assert other.difference == contrast.difference
    assert other.note == "patients unknown: no test"


def test_a_study_of_pictures(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label, level in (("bleeding", 60), ("none", 180)):
        for i in range(12):
            path = tmp_path / "data" / label / f"JANE-DOE-OF-THE-TEST-{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(generator.normal(level, 10, (24, 20)).clip(0, 255).astype(np.uint8)).save(path)
    plan = StudyPlan(
        "pictures",
        {"images": "folders", "root": str(tmp_path / "data")},
        {"scratch": EncoderSource()},
        settings=TINY,
        heads=("finetune", "knn"),
        fractions=(0.25, 1.0),
        seeds=(0,),
        baseline="scratch",
    )
    results = study(plan, tmp_path / "out")
    assert results.record["subset_unit"] == "slices"
    assert [p.train_slices for p in results.points if p.head == "knn"] == [4, 16]
    assert all((p.mean or 0) > 0.9 for p in results.points if p.head == "knn")
    assert "unknown number of patients" in (tmp_path / "out" / "report.html").read_text()
    naming = {
        p.name for p in (tmp_path / "out").rglob("*") if p.is_file() and "JANE-DOE-OF" in p.read_text(errors="replace")
    }
    assert naming <= {"predictions.csv", "studies.json"}, "only there pictures have names"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (EncoderSource("nofile.pt"), "the encoder 'mine': nofile.pt: no such file or run"),
        (EncoderSource("WEIGHTS"), "the encoder 'mine': its weights are of a resnet18, the study is of resnet50"),
        (EncoderSource(bundle="ct_ssl_other"), "bundle 'ct_ssl_other' does not exist"),
        (EncoderSource(bundle="ct_ssl_spark", overlays=["fast"]), "configuration 'fast' is neither"),
    ],
)
def test_encoders_are_looked_at_before_anything_is_made(
    plan: StudyPlan, source: EncoderSource, message: str, tmp_path: Path
) -> None:
    if source.weights == "WEIGHTS":
        source = replace(source, weights=plan.encoders["given"].weights)
    encoders = {"first": EncoderSource(bundle="ct_ssl_spark"), "mine": source}
    wrong = replace(plan, encoders=encoders, settings={**TINY, "arch": "resnet50"}, baseline="first")
    with pytest.raises(InputError, match=message):
        study(wrong, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
