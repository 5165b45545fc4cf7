"""Imports a published checkpoint as a torchvision ResNet's weights, checks that they load, and writes a report."""

from pathlib import Path

import torchvision

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.formats import Arm
from medssl_monai.checkpoints.load import load_encoder, load_into_resnet, put_into_resnet
from medssl_monai.checkpoints.preprocessing import UNKNOWN, Preprocessing, check_stated
from medssl_monai.checkpoints.report import LoadReport
from medssl_monai.errors import CheckpointError


def import_weights(
    file: str | Path,
    out: str | Path,
    *,
    form: str | None = None,
    arm: Arm | None = None,
    report: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
) -> LoadReport:
    """Write the encoder of `file` to ``OUT.safetensors`` and a report on every tensor to a JSON file.

    Args:
        file: a checkpoint in any format of `formats.FORMATS`, or a run.
        out: file to write.
        form: the format; None recognises it from the names.
        arm: ``query`` or ``online`` for the trained network (the default), ``key`` or ``target`` for its average.
        report: JSON file of the report; ``OUT.report.json`` by default.
        preprocessing: of the training images, if the file does not have it or is wrong. Its known entries replace
            those that the format implies.

    Returns:
        The report of loading `file` into a fresh torchvision ResNet: ``fc.*`` alone is missing.

    Raises:
        CheckpointError: see `load_encoder`; nothing is written then.
        ConfigError: see `check_stated`; likewise.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise CheckpointError(f"{out.name}: weights are imported into .safetensors; give --out a name with that suffix")
    check_stated(preprocessing or UNKNOWN)
    state, read = load_encoder(file, form, arm)
    network = getattr(torchvision.models, read.arch)(weights=None)
    found = put_into_resnet(network, state, read)
    origin = {} if "fingerprint" in found.metadata else {"method": found.format}
    stated = {} if preprocessing is None else preprocessing.to_metadata()
    kept = {key: value for key, value in found.metadata.items() if key not in {"arch", "fingerprint"}}
    written = export_encoder(network, out, metadata={**origin, **kept, **stated, "arm": found.arm})
    again = load_into_resnet(network, out)
    if again.fingerprint != found.fingerprint or written["fingerprint"] != found.fingerprint:
        raise CheckpointError(f"{out.name}: what was written is not what was read; the disk may be full or faulty")
    beside = out.with_suffix(".report.json")
    write_json(beside, {**written, "import": found.to_json()})
    if report is not None and Path(report) != beside:
        write_json(Path(report), found.to_json())
    return found
