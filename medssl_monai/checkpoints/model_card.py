"""A page about a network, to lie beside its file: what it was trained on, how, and how images must be prepared."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

# Settings of a run that the section on preprocessing tells, or that matter to the run's own computer only.
_TOLD_ELSEWHERE = {"window", "window_hu", "mean", "std", "classes", "image_channels", "num_workers", "val_interval"}


def describe_data(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts and spacings of the slices that a network was trained on; `rows` are a store's index.

    Patients are counted by pseudonym. Spacings are [least, median, greatest] in mm.
    """
    kept = list(rows)
    summary: dict[str, Any] = {
        "patients": len({row["patient"] for row in kept}),
        "series": len({row["series_id"] for row in kept}),
        "slices": len(kept),
        "modality": sorted({str(row["modality"]) for row in kept}),
    }
    for name, column in (("pixel_spacing_mm", "spacing_row_mm"), ("slice_spacing_mm", "slice_spacing_mm")):
        values = [float(row[column]) for row in kept if row[column] is not None and row[column] > 0]
        if values:
            summary[name] = [round(f(values), 3) for f in (min, median, max)]
    return summary


def model_card(
    *,
    file: str,
    form: str,
    arch: str,
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
        *_table("Data", _data(data, record)),
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


def _preprocessing(metadata: Mapping[str, str]) -> dict[str, str]:
    unknown = "not recorded"
    return {
        "intensities": "Hounsfield units, windowed to 0 .. 1, then (x - mean) / std",
        "window": metadata.get("window", unknown).strip('"'),
        "mean": metadata.get("mean", unknown),
        "std": metadata.get("std", unknown),
        "channels in training": metadata.get("channels", unknown),
        **({"classes": metadata["classes"]} if "classes" in metadata else {}),
    }


def _data(data: Mapping[str, Any] | None, record: Mapping[str, Any]) -> dict[str, Any]:
    known = dict(data) if data else {"counts and spacing": "not recorded; export with --data STORE to have them here"}
    return {**known, "fingerprint of the store": record.get("data_fingerprint") or "not recorded"}


def _table(title: str, rows: Mapping[str, Any]) -> list[str]:
    if not rows:
        return []
    return [f"## {title}", "", "| | |", "|---|---|", *(f"| {k} | {_cell(v)} |" for k, v in rows.items()), ""]


def _cell(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = ", ".join(_cell(each) for each in value)
    return str(value).replace("|", "\\|").replace("\n", " ")
