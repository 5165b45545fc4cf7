"""What an import writes beside the tensors, what it fills in, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest

from medssl_monai.checkpoints.import_weights import import_weights
from medssl_monai.checkpoints.load import load_encoder, preprocessing_of
from medssl_monai.checkpoints.preprocessing import Preprocessing
from medssl_monai.errors import CheckpointError, ConfigError
from tests.checkpoints.test_import_formats import constants, saved


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"window": "nosuch"}, "window 'nosuch' is no preset"),
        ({"window": [100, -100]}, "low must be below high"),
        ({"mean": "x"}, "mean must be one number or three, from 0 to 1, .*found x"),
        ({"mean": 123.7}, "divide constants for 0 to 255 by 255"),
        ({"mean": float("nan")}, "mean must be"),
        ({"mean": [0.2, 0.2]}, "mean must be one number or three"),
        ({"std": 0}, "std must be one number or three, above 0 and at most 1, .*found 0"),
        ({"std": [0.2, 0.2, 0.0]}, "std must be"),
        ({"std": True}, "std must be"),
    ],
)
def test_a_preprocessing_that_nobody_can_use_is_refused(stated: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "w.pth", constants("resnet18"))
    with pytest.raises(ConfigError, match=message):
        import_weights(path, tmp_path / "e.safetensors", preprocessing=Preprocessing(**stated))
    assert not (tmp_path / "e.safetensors").exists()


def test_import_writes_what_is_known_of_the_images(tmp_path: Path) -> None:
    content = {"state_dict": {**constants("resnet18", "online_network.encoder.")}}
    path, out = saved(tmp_path / "byol.ckpt", content), tmp_path / "encoder.safetensors"
    import_weights(path, out, report=tmp_path / "report.json")
    assert preprocessing_of(out) == Preprocessing("minmax", (0.1806,) * 3, (0.1907,) * 3, 1) == preprocessing_of(path)
    assert load_encoder(out)[1].metadata["method"] == "byol" and (tmp_path / "report.json").is_file()
    import_weights(path, out, preprocessing=Preprocessing(window=(-1000.0, 400.0), mean=0.2))
    assert preprocessing_of(out) == Preprocessing((-1000.0, 400.0), 0.2, (0.1907,) * 3, 1)
    import_weights(out, tmp_path / "again.safetensors")
    assert preprocessing_of(tmp_path / "again.safetensors").mean == 0.2
    assert load_encoder(tmp_path / "again.safetensors")[1].metadata["method"] == "byol"
    with pytest.raises(CheckpointError, match="give --out a name with that suffix"):
        import_weights(path, tmp_path / "encoder.pth")


def test_counters_older_than_pytorch_0_4_1_are_filled_and_said(tmp_path: Path) -> None:
    full = constants("resnet18")
    without = {k: v for k, v in full.items() if not k.endswith("num_batches_tracked")}
    state, report = load_encoder(saved(tmp_path / "old.pth", without))
    assert len(report.matched) == 100 and len(report.filled) == 20
    assert all(int(state[name]) == 0 and name.endswith("num_batches_tracked") for name in report.filled)
    holed = {k: v for k, v in full.items() if k != "bn1.num_batches_tracked"}
    with pytest.raises(CheckpointError, match=r"1 \(bn1.num_batches_tracked\) missing"):
        load_encoder(saved(tmp_path / "holed.pth", holed))
