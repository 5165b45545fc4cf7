"""The demo says whether what it predicted of the unseen series is right."""

from pathlib import Path

import pytest

from medssl_monai.demo import DemoData, _right_or_wrong


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
