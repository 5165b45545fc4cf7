"""The encoder of a run as a file of its own, proven to load into a plain torchvision ResNet."""

from pathlib import Path

import torchvision

from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.load import LoadReport, load_encoder, load_into_resnet
from medssl_monai.errors import CheckpointError

__all__ = ["export_run"]


def export_run(run: str | Path, out: str | Path) -> LoadReport:
    """Write a run's encoder to ``OUT.safetensors`` (and ``OUT.report.json``), then load it back.

    Args:
        run: folder of a pre-training or fine-tuning run, or a file of weights.
        out: file to write.

    Returns:
        The report of loading the new file into a fresh torchvision ResNet: only ``fc.*`` is missing.

    Raises:
        CheckpointError: there are no weights of a whole encoder, or ``out`` is not a .safetensors file.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out.name}: an encoder is exported as .safetensors; give --out a name with that suffix")
    _, found = load_encoder(run)
    network = getattr(torchvision.models, found.arch)()
    load_into_resnet(network, run)
    metadata = {key: value for key, value in found.metadata.items() if key not in {"arch", "fingerprint"}}
    export_encoder(network, out, metadata=metadata)
    report = load_into_resnet(getattr(torchvision.models, found.arch)(), out)
    if report.fingerprint != found.fingerprint or not all(name.startswith("fc.") for name in report.missing):
        raise CheckpointError(f"{out.name}: what was written is not what the run holds; the disk may be full or faulty")
    return report
