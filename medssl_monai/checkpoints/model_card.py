"""The model card: what a network was trained on, how, and how images must be prepared for it."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from medssl_monai.checkpoints.files import PASSPORT
from medssl_monai.checkpoints.preprocessing import HOUNSFIELD
from medssl_monai.windows import AdaptiveWindow

# Settings of a run that the section on preprocessing has, or that concern the computer of the run alone.
_TOLD_ELSEWHERE = {
    *("window", "window_hu", "mean", "std", "channel_spacing_mm", "classes", "image_channels"),
    *("num_workers", "val_interval"),
}


DESCRIBED = ("patient", "series_id", "modality", "spacing_row_mm", "slice_spacing_mm")
"""The columns of a store's index that `describe_data` reads."""


def describe_data(table: pa.Table) -> dict[str, Any]:
    """Counts and spacings of the slices that a network was trained on; `table` has the columns `DESCRIBED`.

    Patients are counted by pseudonym. Spacings are [least, median, greatest] in mm.
    """
    distinct = {name: table.column(name).unique().to_pylist() for name in ("patient", "series_id", "modality")}
    summary: dict[str, Any] = {
        "patients": len(distinct["patient"]),
        "series": len(distinct["series_id"]),
        "slices": table.num_rows,
        "modality": sorted(map(str, distinct["modality"])),
    }
    for name, column in (("pixel_spacing_mm", "spacing_row_mm"), ("slice_spacing_mm", "slice_spacing_mm")):
        values = table.column(column).drop_null().to_numpy()
        values = values[values > 0]
        if len(values):
            summary[name] = [round(float(f(values)), 3) for f in (np.min, np.median, np.max)]
    return summary


def model_card(
    *,
    file: str,
    form: str,
    arch: str,
    code: str,
    metadata: Mapping[str, str],
    record: Mapping[str, Any],
    data: Mapping[str, Any] | None,
    proof: Mapping[str, Any],
    licence: str | None,
) -> str:
    """The page, in Markdown.

    Args:
        file: name of the network's file.
        form: the file's format in words.
        arch: such as ``resnet50``.
        code: Python that loads the file into ``network``.
        metadata: the header's strings: method, window, mean, std, channels, fingerprint …
        record: the run's ``run.json``; empty where the weights come from elsewhere.
        data: what `describe_data` tells, or None where it is not known.
        proof: input's and output's shape, and the largest difference found from the source network.
        licence: terms of the weights, or None where nobody has stated them.
    """
    settings = {key: value for key, value in record.get("settings", {}).items() if key not in _TOLD_ELSEWHERE}
    method = metadata.get("method") or record.get("bundle")
    origin = f"trained by {method}" if method else "of an origin that is not recorded"
    fingerprint = metadata["fingerprint"]
    lines = [
        f"# {file}",
        "",
        f"A {arch} ({form}), {origin}.",
        "",
        *_table("Network", {**_network(proof), "fingerprint": f"`{fingerprint}`"}),
        *_table("Preprocessing", _preprocessing(metadata)),
        *_code(code),
        *_table("Data", {**_data(data, record), **_passport(metadata)}),
        *_table(
            "Recipe", {"method": method, **settings} if settings else {"method": method, "settings": "not recorded"}
        ),
        *_table("Software", record.get("packages", {})),
        "## Licence",
        "",
        licence or "Not stated. The weights come from data; whoever hands them on must know the data's terms.",
        "",
        "## Use",
        "",
        "For research. Not a medical device; no diagnosis may rest on it.",
        "",
    ]
    return "\n".join(lines)


def _network(proof: Mapping[str, Any]) -> dict[str, str]:
    return {
        "input": f"{proof['input']} float32, prepared as below",
        "output": str(proof["output"]),
        "largest difference from the source network": f"{proof['difference']:.1e} of {proof['scale']:.2g}",
    }


def _code(code: str) -> list[str]:
    return ["## Loading", "", "```python", *code.splitlines(), "```", ""]


def _preprocessing(metadata: Mapping[str, str]) -> dict[str, str]:
    unknown = "not recorded"
    return {
        "intensities": f"{metadata.get('intensities', HOUNSFIELD)}, windowed to 0 .. 1, then (x - mean) / std",
        "window": metadata.get("window", unknown).strip('"'),
        "window limits": _limits(metadata),
        "mean": metadata.get("mean", unknown),
        "std": metadata.get("std", unknown),
        "channels in training": _channels(metadata, unknown),
        **({"classes": metadata["classes"]} if "classes" in metadata else {}),
    }


def _channels(metadata: Mapping[str, str], unknown: str) -> str:
    spacing = json.loads(metadata.get("channel_spacing_mm", "0"))
    if not spacing:
        return metadata.get("channels", unknown)
    return f"3: the slice {spacing:g} mm below, the slice itself, the slice {spacing:g} mm above"


def _limits(metadata: Mapping[str, str]) -> str:
    if "window_hu" not in metadata:
        by_image = any(json.dumps(name) in metadata.get("window", "") for name in get_args(AdaptiveWindow))
        return "depend on the image" if by_image else "not recorded"
    limits = dict.fromkeys(f"{low:g} to {high:g} HU" for low, high in json.loads(metadata["window_hu"]))
    return ", ".join(limits)


def _data(data: Mapping[str, Any] | None, record: Mapping[str, Any]) -> dict[str, Any]:
    known = dict(data) if data else {"counts and spacing": "not recorded; export with --data STORE to have them here"}
    return {**known, "fingerprint of the store": record.get("data_fingerprint") or "not recorded"}


def _passport(metadata: Mapping[str, str]) -> dict[str, str]:
    if PASSPORT not in metadata:
        return {}
    content = json.loads(metadata[PASSPORT])
    slices = f"prints of {content['slices']} of {content['slices_used']} slices"
    return {PASSPORT: f"{slices}: `medssl audit` finds images that the weights have seen"}


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in rows.items()), ""]


def _cell(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(_cell(each) for each in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
