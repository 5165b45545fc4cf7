"""Encoders that come with the package: found by name from anywhere, and only for images as in their training."""

import json
from pathlib import Path

import pytest
import torch

from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.checkpoints.start import start_from
from medssl_monai.classify.audited import audit
from medssl_monai.errors import CheckpointError
from medssl_monai.experiment.encoders import weights_fingerprint
from medssl_monai.resources import encoder_path, resource_dir, shipped_encoders

NAME = "ct-lidc-spark-resnet50"


def test_the_list() -> None:
    assert shipped_encoders() == [NAME]


@pytest.mark.parametrize("name", shipped_encoders())
def test_a_name_loads_from_anywhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state, report = load_encoder(name)
    assert len(state) == 318
    assert report.arch == "resnet50"
    assert report.metadata["intensities"] == "8-bit pictures, per-slice range"
    content = json.loads(report.metadata["passport"])
    assert (content["slices"], content["slices_used"]) == (1000, 1000)
    card = (resource_dir("encoders") / f"{name}.card.md").read_text(encoding="utf-8")
    assert report.metadata["fingerprint"] in card
    for words in ("## Licence", "CC BY 3.0", "## Measured", "## Limits"):
        assert words in card
    assert encoder_path(name).stat().st_size < 50e6
    assert weights_fingerprint(name) == weights_fingerprint(str(encoder_path(name)))
    assert report.dtypes["float16"] == 53


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save([1], tmp_path / NAME)
    with pytest.raises(CheckpointError, match="found list"):
        load_encoder(NAME)


def test_a_name_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(CheckpointError, match=rf"did you mean '{NAME}'\?.*or a shipped encoder \({NAME}\)"):
        load_encoder("ct-lidc-spark-resnet-50")
    (told,) = audit([Path("ct-lidc-spark-resnet-50")]).unchecked
    assert f"did you mean '{NAME}'?" in told


def test_it_sets_architecture_and_view_of_pictures_and_is_refused_for_hu() -> None:
    start = start_from(NAME, pictures=True, default={"arch": "resnet18", "image_size": 224})
    assert (start.arch, start.prepared.image_size, start.prepared.window) == ("resnet50", 96, "picture")
    assert (start.prepared.mean, start.prepared.std) == (0.32, 0.34)
    with pytest.raises(CheckpointError, match="pictures"):
        start_from(NAME, pictures=False)
