"""The four published formats, and the proof: a torchvision ResNet-50 computes what the network in the file computed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from medssl_monai.checkpoints.fingerprint import fingerprint
from medssl_monai.checkpoints.import_weights import import_weights
from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.checkpoints.manifests import backbone_shapes
from medssl_monai.checkpoints.report import LoadReport
from medssl_monai.methods.spark import SparK
from medssl_monai.networks.masked import masked_features
from medssl_monai.networks.resnet import resnet_encoder
from tests import golden
from tests.checkpoints import published
from tests.checkpoints.published import Forward, Published


def image() -> Tensor:
    return torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(5)).expand(-1, 3, -1, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("published")


def make(name: str, folder: Path) -> Published:
    """The file as its trainer writes it."""
    torch.manual_seed(11)
    if name == "swav":
        network, encoders = published.swav()
        # Trained in half precision, which adds the gradient scaler's state.
        scaler = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        content = published.lightning("ckpt_swav", network, NativeMixedPrecisionPlugin={**scaler, "_growth_tracker": 3})
    elif name == "moco":
        network, encoders = published.moco()
        content = published.lightning("ckpt_moco", network)
    elif name == "moco_mlp":
        network, encoders = published.moco(head="mlp")
        content = published.lightning("ckpt_moco_mlp", network)
    elif name == "byol":
        network, encoders = published.byol()
        content = published.lightning("ckpt_byol", network)
    else:
        network, encoders = published.spark()
        described = golden.load_json(f"ckpt_{name}")
        state: dict[str, Any] = {f"sparse_encoder.sp_cnn.{k}": v for k, v in network.state_dict().items()}
        if name == "spark_finetune":
            published.assert_names(described, network.state_dict())
            content = {**described["scalars"], "module": network.state_dict()}
        else:
            zero = torch.zeros(())
            rest = {k: zero.expand(v[0]) for k, v in described["state_dict"].items() if k not in state}
            state = {k: rest[k] if k in rest else state[k] for k in described["state_dict"]}
            settings = published.value_of(described["non_tensor_entries_in_module"]["config"])
            optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-7, "params": [0]}]}
            content = {**described["scalars"], "module": {**state, "config": settings}, "optimizer": optimizer}
    path = folder / f"{name}.pth"
    torch.save(content, path)
    return Published(path, encoders)


FILES = {
    "swav": "swav",
    "moco": "moco",
    "moco_mlp": "moco",
    "byol": "byol",
    "spark_finetune": "spark",
    "spark_full": "spark-training",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in ("moco", "byol") else name for name in FILES]
)
def test_features_are_those_of_the_source_network(name: str, folder: Path) -> None:
    source = make(name, folder)
    out = folder / f"{name}.safetensors"
    for arm, encode in source.encoders.items():
        report = import_weights(source.path, out, arm=arm)
        assert (report.format, report.arch) == (FILES[name], "resnet50")
        assert report.arm == (arm if len(source.encoders) > 1 else "encoder")
        assert len(report.matched) == 318 and not report.reshaped and not report.filled
        assert report.missing == ("fc.weight", "fc.bias")
        assert report.dtypes == {"float32": 265, "int64": 53}
        check_features(encode, out, sparse=name.startswith("spark"))
        check_report(f"{name}_{arm}" if arm in {"key", "target"} else name, report, out)
    source.path.unlink()


@torch.no_grad()
def check_features(encode: Forward, out: Path, sparse: bool) -> None:
    """torchvision's network and ours compute what the source network computed."""
    expected = encode(image())
    assert float(expected.std()) > 0.01, "a dead network proves nothing"
    theirs = torchvision.models.resnet50(num_classes=2)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(load_encoder(out)[0])
    torch.testing.assert_close(theirs.eval()(image()), expected, rtol=1e-5, atol=1e-5)
    ours = resnet_encoder("resnet50", encoder_weights=out).eval()
    torch.testing.assert_close(ours(image()[:, :1]), expected, rtol=1e-5, atol=1e-5)
    if sparse:
        visible = torch.ones(2, 1, 2, 2, dtype=torch.bool)
        maps = masked_features(SparK(ours, decoder_width=32).eval().encoder, image(), visible)
        torch.testing.assert_close(maps[-1].mean((2, 3)), expected, rtol=1e-5, atol=1e-5)


def check_report(name: str, report: LoadReport, out: Path) -> None:
    """Hold what was left out to the reference's own renaming, and the written report to the returned one."""
    stored = json.loads(out.with_suffix(".report.json").read_text())
    assert stored["import"] == json.loads(json.dumps(report.to_json()))
    assert stored["fingerprint"] == report.fingerprint == fingerprint(load_encoder(out)[0])
    prefixes = {"swav": "model.", "moco": "encoder_q.", "moco_mlp": "encoder_q."}
    left_out = [each for names in report.unexpected.values() for each in names]
    rule = golden.load_json("remap_expected").get(name, {}).get("readme_rule", {})
    if "unexpected_keys" in rule:
        renamed = [each.removeprefix(prefixes.get(name, "")) for each in left_out]
        assert sorted(renamed) == sorted(rule["unexpected_keys"])
    if rule.get("would_be_missing") is not None and "n_would_be_unexpected" in rule:
        assert len(left_out) == rule["n_would_be_unexpected"] + 2  # and fc, on which the reference's renaming raises
    assert {reason: len(names) for reason, names in report.unexpected.items()} == LEFT_OUT[name]


LEFT_OUT = {
    "swav": {"projector": 9, "prototypes": 1},
    "moco": {"queue": 4, "projector": 2, "target network": 320},
    "moco_key": {"queue": 4, "projector": 2, "online network": 320},
    "moco_mlp": {"queue": 4, "projector": 4, "target network": 322},
    "moco_mlp_key": {"queue": 4, "projector": 4, "online network": 322},
    "byol": {"projector": 8, "predictor": 8, "target network": 334},
    "byol_target": {"projector": 8, "predictor": 8, "online network": 334},
    "spark_finetune": {},
    "spark_full": {"normalisation constants": 3, "decoder": 104, "not a tensor": 1},
}


def test_the_robust_rule_of_the_golden_numbers() -> None:
    for name, expected in golden.load_json("remap_expected").items():
        if name == "_meta":
            continue
        assert expected["robust"]["n_loaded"] == len(backbone_shapes("resnet50"))
        assert expected["robust"]["missing_keys"] == ["fc.weight", "fc.bias"]
        assert not expected["robust"]["unexpected_keys"] and name in FILES
