"""Formats are told by whole words of the names; what does not cover the encoder is refused with its reason."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from medssl_monai.checkpoints.formats import FORMATS
from medssl_monai.checkpoints.load import load_encoder, load_into_resnet, preprocessing_of
from medssl_monai.checkpoints.manifests import backbone_shapes
from medssl_monai.checkpoints.preprocessing import Preprocessing
from medssl_monai.errors import CheckpointError
from medssl_monai.methods.base import Method
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.swav import SwAV
from medssl_monai.networks.resnet import resnet_encoder
from tests import golden
from tests.checkpoints import published


def constants(arch: str = "resnet50", prefix: str = "", dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A whole encoder of small numbers, each tensor a view of one number."""
    state = {}
    for i, (name, shape) in enumerate(backbone_shapes(arch).items()):
        counter = name.endswith("num_batches_tracked")
        state[prefix + name] = torch.tensor(i if counter else 1 / (i + 1), dtype=torch.int64 if counter else dtype)
        state[prefix + name] = state[prefix + name].expand(shape)
    return state


def heads(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(3) for name in names}


def saved(path: Path, content: Mapping[str, Any]) -> Path:
    torch.save(content, path)
    return path


def assert_same(state: Mapping[str, Tensor], arch: str = "resnet18") -> None:
    wanted = constants(arch)
    assert list(state) == list(wanted)
    for name, value in state.items():
        assert torch.equal(value, wanted[name]) and value.is_contiguous(), name


VARIANTS: dict[str, Mapping[str, Any]] = {
    "ddp_lightning_moco": {
        **constants(prefix="module.encoder_q."),
        **constants(prefix="module.encoder_k."),
        "module.queue": torch.zeros(()),
    },
    "fb_swav_flat_ddp": {
        **constants(prefix="module."),
        **heads("module.projection_head.0.weight", "module.prototypes.weight"),
    },
    "spark_timm_style_flat": constants(),
    "torchvision_full_with_1000fc": {**constants(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)},
    "torchvision_with_7_class_fc": {**constants(), "fc.weight": torch.zeros(7, 2048), "fc.bias": torch.zeros(7)},
    "lightning_module_key_named_model_twice": constants(prefix="model.model."),
    "tensors_half": constants(prefix="model.", dtype=torch.float16),
    "missing_one_layer": {k: v for k, v in constants(prefix="model.").items() if not k.startswith("model.layer4.2.")},
    "wrong_arch_resnet18": constants("resnet18", "model."),
}
REFUSED = {
    "lightning_module_key_named_model_twice": "if that is it, give --from prefix:model.model.",
    "missing_one_layer": "found 300 tensors of another layout",
    "wrong_arch_resnet18": "weights are of a resnet18, the network is a resnet50",
}


@pytest.mark.parametrize("name", golden.load_json("remap_variants"))
def test_variants_of_the_golden_numbers(name: str, tmp_path: Path) -> None:
    expected, variant = golden.load_json("remap_variants")[name], VARIANTS[name]
    assert set(expected["example_keys"][:2]) <= set(variant)
    path = saved(tmp_path / "file.ckpt", {"state_dict": variant} if expected["wrapped"] else variant)
    network = torchvision.models.resnet50()
    before = network.conv1.weight.clone()
    if name in REFUSED:
        with pytest.raises(CheckpointError, match=REFUSED[name]):
            load_into_resnet(network, path)
        assert torch.equal(network.conv1.weight, before)
    else:
        assert expected["expected"].startswith(("318 backbone entries", "load_state_dict casts"))
        report = load_into_resnet(network, path)
        assert len(report.matched) == expected["our_prefix_rule"]["n_loaded"] == 318
        assert report.missing == ("fc.weight", "fc.bias")
        state = load_encoder(path)[0]
        assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
        if name == "tensors_half":
            assert report.dtypes == {"float16": 265, "int64": 53}
        else:
            assert_same(state, "resnet50")


def test_a_prefix_may_be_stated(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.ckpt", {"state_dict": constants("resnet18", "model.model.")})
    state, report = load_encoder(path, "prefix:model.model.")
    assert_same(state)
    assert report.format == "prefix:model.model."
    with pytest.raises(CheckpointError, match="no encoder in the format prefix:net"):
        load_encoder(path, "prefix:net.")


NUMBERS = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}


def numbered(prefix: str) -> dict[str, Tensor]:
    parts = {name: name.partition(".") for name in constants("resnet18")}
    return {f"{prefix}{NUMBERS[parts[k][0]]}.{parts[k][2]}": value for k, value in constants("resnet18").items()}


def r18(prefix: str) -> dict[str, Tensor]:
    return constants("resnet18", prefix)


def zeros(prefix: str) -> dict[str, Tensor]:
    return {name: torch.zeros_like(value) for name, value in r18(prefix).items()}


LAYOUTS: list[tuple[str, Mapping[str, Any], dict[str, int]]] = [
    (
        "moco-official",
        {
            "epoch": 200,
            "arch": "resnet18",
            "optimizer": {"state": {}},
            "state_dict": {
                **r18("module.encoder_q."),
                **heads("module.encoder_q.fc.0.weight", "module.encoder_q.fc.2.weight"),
                **zeros("module.encoder_k."),
                **heads("module.encoder_k.fc.0.weight", "module.queue", "module.queue_ptr"),
            },
        },
        {"projector": 2, "target network": 121, "queue": 2},
    ),
    (
        "moco-official",
        {
            "arch": "resnet18",
            "state_dict": {
                **r18("module.base_encoder."),
                **heads("module.base_encoder.fc.0.weight", "module.predictor.0.weight"),
                **zeros("module.momentum_encoder."),
            },
        },
        {"projector": 1, "predictor": 1, "target network": 120},
    ),
    (
        "swav-official",
        {**r18("module."), **heads("module.projection_head.0.weight", "module.prototypes.weight")},
        {"projector": 1, "prototypes": 1},
    ),
    (
        "swav-official",
        {"epoch": 3, "state_dict": {**r18("module."), **heads("module.prototypes.prototypes0.weight")}},
        {"prototypes": 1},
    ),
    (
        "lightly",
        {
            "state_dict": {
                **numbered("backbone."),
                **{k.replace("backbone.", "backbone_momentum."): v for k, v in numbered("backbone.").items()},
                **heads("projection_head.layers.0.weight", "projection_head_momentum.layers.0.weight"),
                **heads("prediction_head.layers.0.weight"),
            }
        },
        {"target network": 121, "projector": 1, "predictor": 1},
    ),
    (
        "lightly",
        {"state_dict": {**r18("backbone."), **heads("projection_head.layers.0.weight", "online_classifier.weight")}},
        {"projector": 1, "classifier": 1},
    ),
    (
        "solo-learn",
        {
            "state_dict": {
                **r18("backbone."),
                **heads("classifier.weight", "projector.0.weight", "queue"),
                **zeros("momentum_backbone."),
                **heads("momentum_projector.0.weight"),
            }
        },
        {"classifier": 1, "projector": 1, "queue": 1, "target network": 121},
    ),
    ("solo-learn", {"state_dict": {**r18("encoder."), **heads("projector.0.weight")}}, {"projector": 1}),
    (
        "reference-classifier",
        {"state_dict": {**numbered("backbone."), **heads("classifier.weight")}},
        {"classifier": 1},
    ),
    ("timm", {"arch": "resnet18", "state_dict": {**r18(""), **heads("fc.weight")}}, {"classifier": 1}),
    ("torchvision", {"model": {**r18("module."), **heads("module.fc.weight")}, "epoch": 1}, {"classifier": 1}),
    (
        "lightly",  # where `backbone` is the moving average, and what is trained is its copy
        {
            "state_dict": {
                **zeros("backbone."),
                **r18("query_backbone."),
                **heads("projection_head.layers.0.weight", "query_projection_head.layers.0.weight"),
            }
        },
        {"target network": 120, "projector": 2},
    ),
    ("lightly", {"state_dict": {**zeros("backbone."), **r18("student_backbone.")}}, {"target network": 120}),
    ("lightning", {"state_dict": {**r18("model."), **heads("model.fc.weight")}}, {"classifier": 1}),
    (
        "swav",
        {"state_dict": {**r18("model."), **heads("model.projection_head.0.weight", "model.prototypes.weight")}},
        {"projector": 1, "prototypes": 1},
    ),
]


@pytest.mark.parametrize("case", range(len(LAYOUTS)), ids=[f"{i}-{name}" for i, (name, _, _) in enumerate(LAYOUTS)])
def test_other_projects_files(case: int, tmp_path: Path) -> None:
    form, content, left_out = LAYOUTS[case]
    path = saved(tmp_path / "file.pth.tar", content)
    state, report = load_encoder(path)
    assert report.format == form
    assert_same(state)
    assert {reason: len(names) for reason, names in report.unexpected.items()} == left_out
    assert_same(load_encoder(path, form)[0])
    averaged = any(name.startswith(("query_backbone.", "student_backbone.")) for name in content.get("state_dict", ()))
    # Who asks for solo-learn's `backbone` of a file where that is the moving average gets it.
    for other in {each.name for each in FORMATS} - {form} - ({"solo-learn"} if averaged else set()):
        try:
            assert_same(load_encoder(path, other)[0])  # a reading that another format shares is the same reading
        except CheckpointError as error:
            assert "no encoder in the format" in str(error)


def test_the_reference_s_classifier_by_its_manifest(tmp_path: Path) -> None:
    described = golden.load_json("ckpt_downstream")
    names = list(described["state_dict"])
    theirs = torchvision.models.resnet50(num_classes=2)
    network = nn.ModuleDict(
        {"backbone": nn.Sequential(*list(theirs.children())[:-1]), "classifier": nn.Linear(2048, 2)}
    )
    assert list(network.state_dict()) == names
    path = saved(tmp_path / "last.ckpt", {"pytorch-lightning_version": "1.7.7", "state_dict": network.state_dict()})
    state, report = load_encoder(path)
    assert report.format == "reference-classifier" and report.beside == ("pytorch-lightning_version",)
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in state.items())


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "module.backbone."])
@pytest.mark.parametrize("wrapper", [None, "model"])
def test_plain_sequences_of_stages(prefix: str, wrapper: str | None, tmp_path: Path) -> None:
    content = numbered(prefix)
    state, report = load_encoder(saved(tmp_path / "file.pt", content if wrapper is None else {wrapper: content}))
    assert report.format == "numbered"
    assert_same(state)


@pytest.mark.parametrize(
    ("content", "advised"),
    [
        ({"net": numbered("module.trunk.")}, "prefix:module.trunk."),
        ({"model": {**r18("module.net."), **heads("module.projector.0.weight")}, "epoch": 1}, "prefix:module.net."),
        ({"model_ema": r18("module.")}, "prefix:module."),
        ({"student": r18("module.backbone."), "teacher": zeros("backbone.")}, "prefix:module.backbone."),
    ],
)
def test_the_prefix_that_a_refusal_advises_is_accepted(content: dict[str, Any], advised: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", content)
    with pytest.raises(CheckpointError, match=f"give --from {advised}$"):
        load_encoder(path)
    assert_same(load_encoder(path, advised)[0])
    assert_same(load_encoder(path, advised.replace("module.", ""))[0])


@pytest.mark.parametrize(
    ("form", "arm", "value"), [(0, "key", 0), (4, "target", None), (6, "target", 0), (0, "query", 1)]
)
def test_the_other_arm(form: int, arm: Any, value: int | None, tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", LAYOUTS[form][1])
    state, report = load_encoder(path, arm=arm)
    assert report.arm == {"key": "key", "query": "query", "target": "target"}[arm]
    assert float(state["conv1.weight"].mean()) == (1.0 if value is None else value)
    assert ("online network" in report.unexpected) == (value != 1)
    assert "target network" not in report.unexpected or value == 1 or form != 0


def test_an_arm_that_is_not_there(tmp_path: Path) -> None:
    path = saved(tmp_path / "file.pt", LAYOUTS[2][1])
    with pytest.raises(CheckpointError, match="swav-official, which holds no key network; take --arm online"):
        load_encoder(path, arm="key")


def test_our_own_methods_by_both_arms(tmp_path: Path) -> None:
    torch.manual_seed(2)
    methods: list[tuple[Method, str | None, set[str]]] = [
        (MoCo("resnet18", queue_length=64), "key_encoder", {"projector", "queue", "target network"}),
        (
            BYOL("resnet18", hidden_dim=16, embedding_dim=8),
            "target_encoder",
            {"projector", "predictor", "target network"},
        ),
        (SwAV("resnet18", prototypes=8, hidden_dim=16, embedding_dim=8), None, {"projector", "prototypes"}),
    ]
    for method, average, reasons in methods:
        path = saved(tmp_path / "last.pt", {"method": method.state_dict()})
        if average is not None:
            nn.init.constant_(getattr(method, average).conv1.weight, 0.5)
            path = saved(path, {"method": method.state_dict()})
            assert float(load_encoder(path, arm="target")[0]["conv1.weight"].mean()) == 0.5
        state, report = load_encoder(path)
        assert all(torch.equal(value, method.encoder.state_dict()[name]) for name, value in state.items())
        assert set(report.unexpected) == reasons, report.unexpected


def test_timm_s_and_torchvision_s_own_networks(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs: Any = timm.create_model("resnet18", pretrained=False).eval()
    _, report = load_encoder(saved(tmp_path / "timm.pth", theirs.state_dict()), "timm")
    network = resnet_encoder("resnet18", encoder_weights=tmp_path / "timm.pth").eval()
    with torch.no_grad():
        pooled = theirs.forward_head(theirs.forward_features(image), pre_logits=True)
        torch.testing.assert_close(network(image), pooled, rtol=1e-5, atol=1e-5)
    assert report.unexpected == {"classifier": ("fc.weight", "fc.bias")}
    assert preprocessing_of(tmp_path / "timm.pth") == Preprocessing()
    with pytest.raises(CheckpointError, match="resnet18, resnet34, resnet50, found"):
        load_encoder(saved(tmp_path / "101.pth", torchvision.models.resnet101().state_dict()))


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"found 2 entries \(a, b\); give a ResNet's state_dict"):
        load_encoder(saved(tmp_path / "a.pt", {"a": torch.zeros(1), "b": 3}))
    with pytest.raises(CheckpointError, match="--from swavv: a format is one of medssl, spark-training, spark"):
        load_encoder(saved(tmp_path / "b.pt", constants("resnet18")), "swavv")
    with pytest.raises(CheckpointError, match=r"no encoder in the format byol, found conv1\.weight"):
        load_encoder(tmp_path / "b.pt", "byol")
    for value in (torch.zeros(64, dtype=torch.complex64), torch.zeros(64, device="meta")):
        with pytest.raises(
            CheckpointError, match=r"must be dense tensors of floating-point numbers, found 1 \(bn1.bias"
        ):
            load_encoder(saved(tmp_path / "c.pt", {**constants("resnet18"), "bn1.bias": value}))
    with pytest.raises(CheckpointError, match=r"1 \(layer1.9.weight\) of no use|another layout"):
        load_encoder(saved(tmp_path / "d.pt", {**constants("resnet18"), "layer1.9.weight": torch.zeros(1)}))


def test_a_value_is_read_from_a_manifest_s_words() -> None:
    assert published.value_of({"a": ["int: 3", "float: 1e-06", "NoneType: None", "str: 'x'", "tuple: (1, 2)"]}) == {
        "a": [3, 1e-06, None, "x", (1, 2)]
    }
