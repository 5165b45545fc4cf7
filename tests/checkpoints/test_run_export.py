"""Every format that a run's network leaves in computes what the run's network computes."""

import dataclasses
import importlib
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from monai.data.torchscript_utils import load_net_with_metadata
from safetensors import safe_open
from torch import Tensor, nn

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints import onnx_file
from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.load import load_encoder, load_into_resnet, preprocessing_of
from medssl_monai.checkpoints.model_card import describe_data
from medssl_monai.checkpoints.network_files import NETWORK_FILES
from medssl_monai.checkpoints.preprocessing import Preprocessing
from medssl_monai.checkpoints.run_export import ExportFormat, export_run
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.ingest import SliceStore
from medssl_monai.networks.classifier import classifier
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder
from tests.checkpoints.published import resnet50

RECORD = {
    "bundle": "ct_ssl_spark",
    "settings": {"arch": "resnet18", "batch_size": 4, "max_epochs": 3, "window": "lung", "mean": 0.25, "std": 0.25},
    "data_fingerprint": "ab" * 32,
    "packages": {"torch": "2.14"},
}
HEADER = {"method": "spark", "window": '"lung"', "mean": "0.25", "std": "0.25"}
NO_ONNX = not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))


@pytest.fixture(scope="module")
def encoder() -> ResNetEncoder:
    torch.manual_seed(4)
    network = resnet_encoder("resnet18")
    with torch.no_grad():
        network(torch.randn(8, 1, 64, 64))
    network.eval()
    return network


@pytest.fixture(scope="module")
def run(encoder: ResNetEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    export_encoder(encoder, folder / "models" / "encoder.safetensors", metadata=HEADER)
    write_json(folder / "run.json", RECORD)
    return folder


@pytest.fixture(scope="module")
def fine_tuned(encoder: ResNetEncoder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("fine_tuned")
    network = classifier("resnet18", num_classes=3).eval()
    network.load_state_dict(encoder.state_dict(), strict=False)
    (folder / "models").mkdir()
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    settings = {**RECORD["settings"], "classes": ["head", "thorax", "abdomen"]}  # type: ignore[dict-item]
    write_json(folder / "run.json", {**RECORD, "bundle": "ct_classification", "settings": settings})
    return folder, network


def image(channels: int = 1) -> Tensor:
    return torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(9)).expand(-1, channels, -1, -1)


def assert_computes(network: Any, channels: int, expected: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(network(image(channels)), expected, rtol=1e-5, atol=1e-5)


def named(form: str) -> str:
    return f"encoder{NETWORK_FILES[form].suffixes[0]}"


@pytest.mark.parametrize("single_channel", [False, True], ids=["three", "one"])
@pytest.mark.parametrize("form", ["safetensors", "torchvision", "torchscript", "timm"])
def test_features_are_the_run_s(
    form: ExportFormat, single_channel: bool, run: Path, encoder: ResNetEncoder, tmp_path: Path
) -> None:
    out = tmp_path / named(form)
    report = export_run(run, out, form, single_channel=single_channel)
    assert len(report.matched) == 120 and report.missing == ("fc.weight", "fc.bias")
    with torch.no_grad():
        expected = encoder(image())
    channels = 1 if single_channel else 3
    if form == "torchscript":
        with warnings.catch_warnings():  # torch.jit is deprecated, and MONAI's bundles live on it
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
            script, metadata, _ = load_net_with_metadata(str(out))
        assert_computes(script, channels, expected)
        assert metadata["window"] == '"lung"' and metadata["fingerprint"] == report.fingerprint
    elif form == "timm":
        network = timm.create_model(
            "resnet18", pretrained=False, num_classes=0, in_chans=channels, checkpoint_path=str(out)
        )
        assert_computes(network.eval(), channels, expected)
    else:
        network = torchvision.models.resnet18(num_classes=7)
        network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        state = load_encoder(out)[0] if not single_channel else raw(out)
        missing = network.load_state_dict(state, strict=False)
        assert missing.missing_keys == ["fc.weight", "fc.bias"] and not missing.unexpected_keys
        network.fc = nn.Identity()
        assert_computes(network.eval(), channels, expected)
    if form != "torchscript":  # what leaves folded comes back spread, and computes the same
        load_into_resnet(again := resnet_encoder("resnet18"), out)
        assert_computes(again.eval(), 3, expected)
    written = json.loads((tmp_path / "encoder.report.json").read_text())
    assert written["fingerprint"] == report.fingerprint and written["count"] == 120
    assert written["preprocessing"]["window"] == "lung"
    assert written["proof"]["input"] == f"(batch, {channels}, height, width)"
    if not single_channel:
        assert report.fingerprint == load_encoder(run)[1].fingerprint
    assert not list(tmp_path.glob(".*"))


def raw(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        with safe_open(str(path), framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    state: dict[str, Tensor] = torch.load(path, weights_only=True)
    return state


def test_a_resnet50_has_timm_s_and_torchvision_s_very_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    theirs = resnet50(5)
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    export_run(tmp_path / "in.pth", tmp_path / "out.pth", "timm", head=True)
    network: Any = timm.create_model("resnet50", pretrained=False, num_classes=5)
    state = torch.load(tmp_path / "out.pth", weights_only=True)
    assert list(state) == list(network.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in state.items())


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    forms: tuple[ExportFormat, ...] = ("safetensors", "torchvision", "torchscript")
    for form in forms:
        export_run(run, tmp_path / "a" / named(form), form)
        export_run(run, tmp_path / "b" / named(form), form)
        assert (tmp_path / "a" / named(form)).read_bytes() == (tmp_path / "b" / named(form)).read_bytes()


def test_a_bundle_gets_the_whole_classifier(fine_tuned: tuple[Path, nn.Module], tmp_path: Path) -> None:
    folder, network = fine_tuned
    out = tmp_path / "bundle"
    report = export_run(folder, out, "bundle")
    assert not report.missing
    again = classifier("resnet18", num_classes=3)
    again.load_state_dict(torch.load(out / "models/model.pt", weights_only=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        script, metadata, _ = load_net_with_metadata(str(out / "models/model.ts"))
    with torch.no_grad():
        expected = network(image(3))
    for each in (again.eval(), script):
        assert_computes(each, 3, expected)
    assert json.loads(metadata["classes"]) == ["head", "thorax", "abdomen"]
    card = (out / "docs/model_card.md").read_text()
    assert "(batch, 3) logits" in card and '["head", "thorax", "abdomen"]' in card
    assert (out / "models/model.report.json").is_file()


def test_the_head_is_kept_on_demand_only(fine_tuned: tuple[Path, nn.Module], run: Path, tmp_path: Path) -> None:
    folder, network = fine_tuned
    export_run(folder, tmp_path / "encoder.pth", "torchvision")
    assert not any(name.startswith("fc.") for name in raw(tmp_path / "encoder.pth"))
    export_run(folder, tmp_path / "whole.safetensors", head=True)
    assert torch.equal(raw(tmp_path / "whole.safetensors")["fc.weight"], network.state_dict()["fc.weight"])
    assert preprocessing_of(tmp_path / "whole.safetensors") == Preprocessing("lung", 0.25, 0.25)
    with pytest.raises(CheckpointError, match=r"--head keeps fc\.weight and fc\.bias, found neither"):
        export_run(run, tmp_path / "none.safetensors", head=True)


def test_the_card_tells_method_recipe_data_preprocessing_and_licence(
    run: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    data = describe_data(phantom_store.index)
    assert (data["patients"], data["slices"]) == (5, len(phantom_store.select(None)))
    assert len(data["pixel_spacing_mm"]) == 3 and data["modality"] == ["CT"]
    report = export_run(run, tmp_path / "encoder.safetensors", data=data, licence="CC BY 4.0")
    card = (tmp_path / "encoder.card.md").read_text()
    for words in (
        "# encoder.safetensors",
        "trained by spark",
        f"`{report.fingerprint}`",
        "| window | lung |",
        "| mean | 0.25 |",
        f"| slices | {data['slices']} |",
        "| pixel_spacing_mm |",
        "| max_epochs | 3 |",
        "| torch | 2.14 |",
        "CC BY 4.0",
        "ab" * 32,
    ):
        assert words in card, words
    patients = {row["patient"] for row in phantom_store.select(None)}
    assert not any(patient in card for patient in patients), "counts only"
    export_run(run, tmp_path / "encoder.safetensors")
    card = (tmp_path / "encoder.card.md").read_text()
    assert "not recorded; export with --data STORE" in card and "Not stated" in card


@pytest.mark.parametrize("single_channel", [False, True], ids=["three", "one"])
@pytest.mark.parametrize("form", ["safetensors", "torchvision", "torchscript", "timm"])
def test_the_card_s_code_loads_the_file(
    form: ExportFormat,
    single_channel: bool,
    run: Path,
    encoder: ResNetEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    export_run(run, tmp_path / named(form), form, single_channel=single_channel)
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        expected = encoder(image())
    assert_computes(by_the_card(tmp_path / "encoder.card.md"), 1 if single_channel else 3, expected)


@pytest.mark.parametrize("form", ["safetensors", "timm", "bundle"])
def test_the_card_s_code_loads_a_classifier(
    form: ExportFormat, fine_tuned: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, network = fine_tuned
    out = tmp_path / "bundle" if form == "bundle" else tmp_path / named(form)
    export_run(folder, out, form, head=True)
    card = out / "docs/model_card.md" if form == "bundle" else out.with_suffix(".card.md")
    monkeypatch.chdir(out if form == "bundle" else tmp_path)
    with torch.no_grad():
        expected = network(image(3))
    assert_computes(by_the_card(card), 3, expected)


def by_the_card(card: Path) -> Any:
    """The network that the card's code loads, without a module of this package."""
    code = card.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    assert len(code.splitlines()) <= 6 and "medssl" not in code
    names: dict[str, Any] = {}
    with warnings.catch_warnings():  # torch.jit is deprecated
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.load` is deprecated")
        exec(code, names)
    return names["network"]


@pytest.mark.parametrize(
    ("window", "header", "words"),
    [
        ('"lung"', "[[-1350.0, 150.0]]", "-1350 to 150 HU"),
        ("[-160, 240]", "[[-160.0, 240.0]]", "-160 to 240 HU"),
        ('["lung", "bone", [0, 80]]', "[[-1350.0, 150.0], [-500.0, 1300.0], [0.0, 80.0]]", "0 to 80 HU"),
        ('"minmax"', None, "depend on the image"),
        ('"ours"', None, "not recorded"),
    ],
)
def test_header_and_card_have_the_limits_of_the_window(
    window: str, header: str | None, words: str, encoder: ResNetEncoder, tmp_path: Path
) -> None:
    stale = {"window": window, "window_hu": "[[1.0, 2.0]]"}
    export_encoder(encoder, tmp_path / "in.safetensors", metadata=stale)
    export_run(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    for name in ("in", "out"):
        assert load_encoder(tmp_path / f"{name}.safetensors")[1].metadata.get("window_hu") == header
    assert f"{words} |" in (tmp_path / "out.card.md").read_text(encoding="utf-8")


def test_wrong_names_are_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    for form, name in (("safetensors", "a.pth"), ("torchscript", "a.onnx"), ("timm", "a.ts"), ("torchvision", "a")):
        with pytest.raises(CheckpointError, match=f"--format {form} is written as"):
            export_run(run, tmp_path / name, form)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="--format tflite: must be one of safetensors, torchvision"):
        export_run(run, tmp_path / "a", "tflite")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_half_precision_halves_the_file_and_hardly_changes_the_features(run: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    export_run(run, whole)
    report = export_run(run, half, half=True)
    assert half.stat().st_size < 0.51 * whole.stat().st_size
    for name, value in raw(half).items():
        assert (value.dtype is torch.float16) == (value.ndim == 4), name  # convolutions, and they alone
    (state, found), (exact, _) = load_encoder(half), load_encoder(whole)
    assert found.dtypes["float16"] == 20  # of a ResNet-18
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    for name, value in exact.items():
        torch.testing.assert_close(state[name], value.half().float() if value.ndim == 4 else value, rtol=0, atol=0)
    written = json.loads((tmp_path / "half.report.json").read_text())
    assert 0 < written["proof"]["difference"] < 1e-2 * written["proof"]["scale"]
    assert report.fingerprint == written["fingerprint"]
    assert "(safetensors, convolutions in half precision)" in (tmp_path / "half.card.md").read_text()
    with pytest.raises(CheckpointError, match="only safetensors is written in half precision"):
        export_run(run, tmp_path / "half.pth", "torchvision", half=True)


def test_a_file_that_computes_nan_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dataclasses.replace(
        NETWORK_FILES["safetensors"], read=lambda _: lambda x: torch.full((len(x), 512), torch.nan)
    )
    monkeypatch.setitem(NETWORK_FILES, "safetensors", broken)
    with pytest.raises(CheckpointError, match="found a difference of nan"):
        export_run(run, tmp_path / "out.safetensors")


def test_channels_that_differ_are_not_folded(encoder: ResNetEncoder, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for extra in ({"window": '["lung", "bone", "wide"]'}, {"mean": "[0.1, 0.2, 0.3]"}, {"std": "[0.1, 0.2, 0.3]"}):
        export_encoder(encoder, tmp_path / "three.safetensors", metadata={**HEADER, **extra})
        with pytest.raises(CheckpointError, match="folds channels that hold the same image"):
            export_run(tmp_path / "three.safetensors", out, single_channel=True)
    assert not out.exists()
    export_encoder(encoder, tmp_path / "one.safetensors", metadata={**HEADER, "mean": "[0.2, 0.2, 0.2]"})
    export_run(tmp_path / "one.safetensors", out, single_channel=True)
    assert raw(out)["conv1.weight"].shape == (64, 1, 7, 7)


def test_onnx_without_its_packages_names_the_remedy(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "_PACKAGES", ("onnx_that_is_not_there",))
    with pytest.raises(ConfigError, match=r"found no onnx_that_is_not_there; .*pip install 'medssl-monai\[onnx\]'"):
        export_run(run, tmp_path / "encoder.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(NO_ONNX, reason="needs the extra onnx: pip install 'medssl-monai[onnx]'")
@pytest.mark.parametrize("single_channel", [False, True], ids=["three", "one"])
def test_onnx_computes_the_same_for_any_batch_and_size(
    single_channel: bool, run: Path, encoder: ResNetEncoder, tmp_path: Path
) -> None:
    onnx: Any = importlib.import_module("onnx")
    onnxruntime: Any = importlib.import_module("onnxruntime")
    out = tmp_path / "encoder.onnx"
    report = export_run(run, out, "onnx", single_channel=single_channel)
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    properties = {each.key: each.value for each in onnx.load(str(out)).metadata_props}
    assert properties["window"] == '"lung"' and properties["fingerprint"] == report.fingerprint
    assert b"site-packages" not in out.read_bytes(), "no paths of this computer"
    channels = 1 if single_channel else 3
    for batch, height, width in ((1, 64, 64), (3, 100, 70), (2, 224, 96)):
        view = torch.randn(batch, 1, height, width)
        with torch.no_grad():
            expected = encoder(view)
        result = session.run(None, {"image": view.expand(-1, channels, -1, -1).numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(result), expected, rtol=1e-4, atol=1e-5)
