"""Export a run's network to a file, check that the file computes the same, and write a model card beside it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from medssl_monai.atomic import write_json, write_text
from medssl_monai.checkpoints.files import PASSPORT, read_weights, without_passport
from medssl_monai.checkpoints.fingerprint import fingerprint
from medssl_monai.checkpoints.first_convolution import fold_channels
from medssl_monai.checkpoints.hub_folder import CARD, WEIGHTS, front_matter
from medssl_monai.checkpoints.load import load_encoder, weights_file
from medssl_monai.checkpoints.model_card import model_card
from medssl_monai.checkpoints.network_files import NETWORK_FILES, NetworkFile, build, loading_code
from medssl_monai.checkpoints.onnx_file import require_onnx
from medssl_monai.checkpoints.preprocessing import Preprocessing, with_window_limits
from medssl_monai.checkpoints.report import LoadReport
from medssl_monai.errors import CheckpointError
from medssl_monai.mappings import read_run_record

ExportFormat = Literal["safetensors", "torchvision", "torchscript", "onnx", "timm", "timm-hub", "bundle"]
_FOLDERS = ("bundle", "timm-hub")

# Batch and image sizes of the proof; no writer is given the same ones as an example.
_PROOF_SIZES = ((1, 64, 64), (3, 96, 70))
# Float32 features of a ResNet-50 differ by about 1e-6 of their scale when sums are taken in another order.
_TOLERANCE = 1e-4
# Half precision rounds a weight by up to 2^-11 of its size.
_HALF_TOLERANCE = 1e-2


def export_run(
    run: str | Path,
    out: str | Path,
    form: ExportFormat = "safetensors",
    *,
    single_channel: bool = False,
    head: bool = False,
    half: bool = False,
    data: Mapping[str, Any] | None = None,
    licence: str | None = None,
    passport: str | None = None,
) -> LoadReport:
    """Write a run's encoder to `out`, ``OUT.report.json`` and the card ``OUT.card.md`` beside it, and read it back.

    Args:
        run: folder of a pre-training or fine-tuning run, or a file of weights.
        out: file to write, with the format's suffix; for ``bundle`` a folder, which gets ``models/model.pt``,
            ``models/model.ts`` and ``docs/model_card.md``; for ``timm-hub`` a folder that gets ``model.safetensors``,
            ``config.json`` and ``README.md``.
        form: ``safetensors``, ``torchvision`` (.pth), ``torchscript`` (.ts), ``onnx``, ``timm``, ``timm-hub`` or
            ``bundle``.
        single_channel: fold the first convolution, so that the network takes one channel: exact for a slice alone
            under one window.
        head: keep the classification layer of a fine-tuned run (a bundle always does).
        half: write the convolutions in float16, for half the size (``safetensors`` only). All other tensors stay in
            float32, and `load_encoder` makes float32 of the whole.
        data: `model_card.describe_data` of the training data, for the card.
        licence: terms of the weights, for the card.
        passport: `Passport.to_text` of the training data, for the header of a safetensors file; None keeps the one that
            the weights already carry, ``""`` leaves it out. Other formats carry none.

    Returns:
        The report of reading the weights; `missing` is ``fc.*`` unless the head was kept.

    Example:
        >>> report = export_run("runs/spark", "encoder.safetensors")  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
        resnet50 from encoder.safetensors (torchvision, encoder): 318 tensors matched, 2 (fc.weight, fc.bias) missing, …

    Raises:
        CheckpointError: the run has no weights of a whole encoder, `head` is true but there is no classification layer,
            `half` with another format, or `out` has another suffix.
        ConfigError: ``onnx`` without its packages.
    """
    out, run = Path(out), Path(run)
    if form not in get_args(ExportFormat):
        raise CheckpointError(
            f"--format {form}: must be one of {', '.join(get_args(ExportFormat))}; choose one of these"
        )
    if half and form != "safetensors":
        raise CheckpointError(
            f"--half --format {form}: only safetensors is written in half precision; leave --half out"
        )
    if form == "onnx":
        require_onnx()
    if form not in _FOLDERS and out.suffix not in NETWORK_FILES[form].suffixes:
        known = " or ".join(NETWORK_FILES[form].suffixes)
        raise CheckpointError(f"{out.name}: --format {form} is written as {known}; give --out a name with that suffix")
    state, found = load_encoder(run)
    layer = _classification_layer(run) if head or form == "bundle" else {}
    if head and not layer:
        raise CheckpointError(f"{found.source}: --head keeps fc.weight and fc.bias, found neither; leave it out")
    source = build(found.arch, {**state, **layer})
    record = read_run_record(run)
    stated = Preprocessing.from_metadata(found.metadata, found.source)
    if single_channel and not stated.same_in_all_channels:
        raise CheckpointError(
            f"{found.source}: --single-channel folds channels that hold the same image, found other slices, windows, "
            f"means or deviations in each ({stated}); export three channels"
        )
    folded = {**state, "conv1.weight": fold_channels(state["conv1.weight"])} if single_channel else state
    network = build(found.arch, {**folded, **layer})
    if half:
        _halve(network)
        folded = {name: value for name, value in network.state_dict().items() if name in folded}
    metadata = _metadata(found, record, fingerprint(folded), single_channel, bool(layer))
    metadata |= {} if passport is None else {PASSPORT: passport}
    if (out.suffix != ".safetensors" and form != "timm-hub") or not metadata.get(PASSPORT):
        metadata.pop(PASSPORT, None)
    if form == "bundle":
        title, words, first = "models/model.pt and models/model.ts", "MONAI bundle", "models/model.pt"
        targets = {out / first: NETWORK_FILES["torchvision"], out / "models/model.ts": NETWORK_FILES["torchscript"]}
        card, beside = out / "docs/model_card.md", out / "models/model.report.json"
    elif form == "timm-hub":
        title, words, first = WEIGHTS, NETWORK_FILES[form].title, f"{out.name}/{WEIGHTS}"
        targets = {out / WEIGHTS: NETWORK_FILES[form]}
        card, beside = out / CARD, out / "model.report.json"
    else:
        words = NETWORK_FILES[form].title + (", convolutions in half precision" if half else "")
        title, first = out.name, out.name
        targets = {out: NETWORK_FILES[form]}
        card, beside = out.with_suffix(".card.md"), out.with_suffix(".report.json")
    for path, writer in targets.items():
        writer.write(network, path, metadata)
        proof = _prove(writer, path, source, network, _HALF_TOLERANCE if half else _TOLERANCE)
    page = model_card(
        file=title,
        form=words,
        arch=found.arch,
        code=loading_code(next(iter(targets.values())), first, found.arch, network),
        metadata=metadata,
        record=record,
        data=data if data is not None else record.get("data"),
        proof=proof,
        licence=licence,
    )
    write_text(card, front_matter(bool(layer), licence) + page if form == "timm-hub" else page)
    write_json(beside, _report(title, form, network, metadata, proof))
    return replace(found, missing=() if layer else ("fc.weight", "fc.bias"), fingerprint=metadata["fingerprint"])


def _classification_layer(run: Path) -> dict[str, Tensor]:
    content, _ = read_weights(weights_file(run))
    names = ("fc.weight", "fc.bias")
    layer = {name: content[name] for name in names if isinstance(content.get(name), Tensor)}
    return layer if len(layer) == len(names) else {}


def _metadata(
    found: LoadReport, record: Mapping[str, Any], digest: str, single_channel: bool, head: bool
) -> dict[str, str]:
    kept = {key: value for key, value in found.metadata.items() if key not in {"arch", "fingerprint"}}
    known = {"method": str(record["bundle"])} if "bundle" in record else {}
    classes = record.get("settings", {}).get("classes") if head else None
    metadata = {
        **known,
        **kept,
        **({"classes": json.dumps(classes)} if classes else {}),
        **({"channels": "1"} if single_channel else {}),
        "arch": found.arch,
        "fingerprint": digest,
    }
    return with_window_limits(metadata)


def _halve(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.half()


@torch.no_grad()
def _prove(writer: NetworkFile, path: Path, source: nn.Module, network: nn.Module, tolerance: float) -> dict[str, Any]:
    """Compare what the file computes with what the run's network computes, on images of one window."""
    written = writer.read(path)
    channels = network.get_parameter("conv1.weight").shape[1]
    generator = torch.Generator().manual_seed(0)
    differences, scales = [], []
    for batch, height, width in _PROOF_SIZES:
        image = torch.randn(batch, 1, height, width, generator=generator)
        expected = source(image.expand(-1, 3, -1, -1))
        result = written(image.expand(-1, channels, -1, -1).contiguous())
        scales.append(expected.abs().max())
        differences.append((result - expected).abs().max())
    # torch's maximum of NaN is NaN, and Python's is not.
    difference, scale = float(torch.stack(differences).max()), float(torch.stack(scales).max())
    if not difference <= tolerance * max(scale, 1e-6):
        raise CheckpointError(
            f"{path.name}: must compute what the run's network computes, found a difference of {difference:.1e} on "
            f"values up to {scale:.1e}; the disk may be full or faulty, or a package's version may not fit"
        )
    wide = "features" if isinstance(network.fc, nn.Identity) else "logits"
    return {
        "input": f"(batch, {channels}, height, width)",
        "output": f"(batch, {expected.shape[1]}) {wide}",
        "difference": difference,
        "scale": scale,
    }


def _report(
    title: str, form: str, network: nn.Module, metadata: Mapping[str, str], proof: Mapping[str, Any]
) -> dict[str, Any]:
    state = network.state_dict()
    return {
        "file": title,
        "format": form,
        "count": len(state),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "fingerprint": metadata["fingerprint"],
        "metadata": without_passport(metadata),
        "preprocessing": vars(Preprocessing.from_metadata(metadata, title)),
        "proof": dict(proof),
    }
