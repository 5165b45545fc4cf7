"""The demo says whether what it predicted of the unseen series is right."""

from pathlib import Path

import pytest

from medssl_monai.demo import DemoData, _right_or_wrong, _verdict
from medssl_monai.experiment.plan import EncoderSource, StudyPlan
from medssl_monai.experiment.results import Point, StudyResults


@pytest.mark.parametrize("source", ["unseen", "unseen/sample-6"])
def test_the_prediction_is_compared_with_the_labels(tmp_path: Path, source: str) -> None:
    (tmp_path / source).mkdir(parents=True)
    lines = ["source,slice,label,patient,split", "other,0,head,a,train"]
    lines += [f"{source},{number},{'abdomen' if number else 'thorax'},b,test" for number in range(4)]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    data = DemoData(tmp_path / "labels.csv", [], [], tmp_path / "unseen")
    said = ["thorax", "abdomen", "head", None, "head"]  # the last slice has no label
    found = _right_or_wrong(data, [{"slice": number, "predicted": name} for number, name in enumerate(said)])
    assert found == (
        "By its labels 2 of 4 slices are right; 1 abdomen as head; 1 abdomen as unlike the training slices."
    )
    right = _right_or_wrong(data, [{"slice": 1, "predicted": "abdomen"}])
    assert right == "By its labels 1 of 1 slices are right."


def test_the_closing_sentence_is_of_the_fewest_labels() -> None:
    encoders = {"scratch": EncoderSource(), "SparK": EncoderSource("encoder.safetensors")}
    plan = StudyPlan("t", {}, encoders, heads=("finetune", "linear"), fractions=(0.03, 1.0))
    points = [
        Point(encoder, head, share, 3, mean + share / 10, None, None, None, None, 300 * share, 3)
        for encoder, head, mean in (
            ("scratch", "finetune", 0.5),
            ("scratch", "linear", 0.6),
            ("SparK", "linear", 0.65),
            ("SparK", "finetune", 0.7),
        )
        for share in plan.fractions
    ]
    assert _verdict(StudyResults(plan, ["a", "b"], points, [], {}, "")) == (
        "With 9 labelled slices balanced accuracy is 0.703 from SparK's encoder, 0.503 from scratch and 0.603 on "
        "random features, mean of 3 draws."
    )
