"""What a study says of more labels."""

from dataclasses import replace
from typing import Any

import pytest

from medssl_monai.experiment.growth import growth_note, growth_table, growths
from medssl_monai.experiment.plan import EncoderSource, StudyPlan
from medssl_monai.terminal import labels_table

PLAN = StudyPlan(
    title="of tables alone",
    data={"phantom": {}},
    encoders={"scratch": EncoderSource(), "given": EncoderSource("file")},
    heads=("linear",),
    fractions=(0.25, 0.5, 1.0),
    seeds=(0, 1),
    baseline="scratch",
    wanted=0.9,
)


def rows(**changes: Any) -> list[dict[str, Any]]:
    return [
        {
            "encoder": cell.encoder,
            "head": cell.head,
            "fraction": cell.fraction,
            "seed": cell.seed,
            "train_patients": 40 * cell.fraction,
            "train_slices": 400 * cell.fraction,
            "balanced_accuracy": 0.9 - 0.08 / cell.fraction + 0.01 * cell.seed + 0.05 * (cell.encoder == "given"),
            **changes,
        }
        for cell in PLAN.cells
    ]


@pytest.mark.parametrize(("unit", "count"), [("patients", 40), ("slices", 400)])
def test_one_row_an_encoder_and_head(unit: str, count: int) -> None:
    found, why = growths(PLAN, rows(), unit)
    assert not why
    assert [(one.encoder, one.unit, one.count) for one in found] == [("scratch", unit, count), ("given", unit, count)]
    for one in found:
        assert one.doubled.low < one.reached + 0.05 and one.doubled.value > one.reached
        assert one.needed is not None and one.needed.low > one.count / 4
    scratch, given = (one.needed.value for one in found if one.needed)
    assert given < scratch
    columns, texts = growth_table(PLAN, found)
    assert columns[-1] == f"{unit} for balanced accuracy 0.9"
    assert texts[0][0] == "random features" and texts[0][2].startswith(f"{count} {unit}: 0.825")
    assert labels_table(columns, texts, growth_note(found)).row_count == len(texts)
    assert set(found[0].to_row()) >= {"doubled_low", "needed_high"}


def test_without_a_wanted_figure_there_is_no_such_column() -> None:
    plan = replace(PLAN, wanted=None)
    found, _ = growths(plan, rows(), "patients")
    columns, texts = growth_table(plan, found)
    assert columns[-1] == "with twice as many" and {len(row) for row in texts} == {len(columns)}
    assert found[0].needed_text(None) == "" and found[0].to_row()["needed_low"] is None


def test_what_is_out_of_reach_is_said_in_words() -> None:
    found, _ = growths(replace(PLAN, wanted=0.999), rows(), "patients")
    assert "more than 400" in found[0].needed_text(0.999)
    assert found[1].needed_text(0.8) == "reached with 40"


def test_why_there_is_no_curve() -> None:
    short = replace(PLAN, fractions=(0.5, 1.0))
    found, why = growths(short, rows(), "patients")
    assert not found and "at least 3 different numbers of labels" in why
    assert growth_note(found, why).startswith("Not estimated: learning curve")
    assert growths(PLAN, rows(balanced_accuracy=None), "patients")[1].startswith("the metric is not defined")
