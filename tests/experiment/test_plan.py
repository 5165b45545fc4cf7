"""A study's configuration: what is shipped, what is refused."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from medssl_monai.cli.study import _encoders
from medssl_monai.errors import ConfigError
from medssl_monai.experiment import cells
from medssl_monai.experiment.inputs import StudyInputs
from medssl_monai.experiment.plan import Cell, read_plan
from medssl_monai.experiment.results import _origin
from medssl_monai.resources import resource_dir

TINY = {"arch": "resnet18", "image_size": 32, "batch_size": 6, "num_workers": 0, "device": "cpu"}


def test_imagenet_weights_are_an_encoder(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    encoders = {
        "ImageNet": {"imagenet": "r.pth"},
        "narrow": {"imagenet": "r.pth", "settings": {"window": "lung"}},
        "other": {"weights": "w.pt", "settings": {"mean": 0.5}},
    }
    path.write_text(yaml.safe_dump({"data": {"labels": "x.csv"}, "encoders": encoders}))
    plan = read_plan(path)
    assert plan.encoders["ImageNet"].weights == "r.pth"
    assert plan.encoders["ImageNet"].settings["mean"] == [0.485, 0.456, 0.406]
    assert plan.encoders["narrow"].settings == {**plan.encoders["ImageNet"].settings, "window": "lung"}
    assert _origin(plan, "other") == "weights of a file (mean 0.5)"
    inputs = StudyInputs({}, [], "patients", [], None, "", {"ImageNet": ["r.pth"]})
    cell = Cell("ImageNet", "linear", 1.0, 0)
    assert cells._overrides(plan, inputs, cell)["std"] == [0.229, 0.224, 0.225]
    path.write_text(yaml.safe_dump({"encoders": {"x": {"weights": "w", "settings": {"learning_rate": 1}}}}))
    with pytest.raises(ConfigError, match="may set channel_spacing_mm, mean, std, window of its own"):
        read_plan(path)


@pytest.mark.parametrize("name", sorted(p.stem for p in resource_dir("configs").glob("study_*.yaml")))
def test_shipped_studies_are_valid(name: str, tmp_path: Path) -> None:
    pictures = "images" in yaml.safe_load((resource_dir("configs") / f"{name}.yaml").read_text()).get("data", {})
    given: dict[str, Any] = {"root": "x", "pretrain_on": "y"} if pictures else {"data": {"labels": "x.csv"}}
    plan = read_plan(name, encoders={"ImageNet": "i.pt"}, **given)
    assert plan.baseline == "scratch"
    assert plan.encoders["ImageNet"].weights == "i.pt"
    assert len({cell.folder for cell in plan.cells}) == len(plan.cells)
    if name == "study_fractions":
        with pytest.raises(ConfigError, match="data: give one of"):
            read_plan(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fractions": [0, 1]}, "fractions"),
        ({"heads": ["svm"]}, "heads"),
        ({"metric": "loss"}, "metric"),
        ({"baseline": "imagenet"}, "baseline"),
        ({"encoder": {}}, r"\['encoder'\] not known"),
        ({"encoders": {"a b": None, "a-b": None}}, "differ in letters"),
        ({"encoders": {"x": {"bundle": "ct_ssl_spark"}}}, "'pretrain'"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"wanted": 90}, "wanted: a value of the metric between 0 and 1"),
    ],
)
def test_mistakes_in_a_study_are_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    content = {"data": {"labels": "x.csv"}, "encoders": {"scratch": None}, **change}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=message):
        read_plan(path)
    with pytest.raises(ConfigError, match="neither a YAML file nor one of study_covid_ct, "):
        read_plan("study_dmeo")
    with pytest.raises(ConfigError, match="NAME=FILE"):
        _encoders(["x"])
