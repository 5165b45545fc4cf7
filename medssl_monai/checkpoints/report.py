"""The report on reading a file of weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from medssl_monai.checkpoints.files import without_passport


@dataclass(frozen=True)
class LoadReport:
    """What was read; names are torchvision's, those in `unexpected` the file's own.

    `arm` is the network that was taken where a method has two (query or key, online or target), else "encoder".
    `matched` were taken; `missing` are those of the network that the file lacks (``fc.*``, or a U-Net's decoder and
    head); `unexpected` are the file's other tensors, grouped by what they are, and `beside` its other entries
    (optimizer, callbacks …), all left out; `reshaped` were given another shape, said in words; `filled` are batch
    norm's step counters, which files older than PyTorch 0.4.1 lack, set to 0. `dtypes` counts the encoder's tensors by
    their type in the file: floats become float32. `fingerprint` is that of the tensors handed on. `metadata` comes from
    the file's header, or from what is known of its format.
    """

    source: str
    format: str
    arch: str
    matched: tuple[str, ...]
    arm: str = "encoder"
    missing: tuple[str, ...] = ()
    unexpected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    filled: tuple[str, ...] = ()
    dtypes: Mapping[str, int] = field(default_factory=dict)
    fingerprint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """A dictionary that `json.dump` takes."""
        mappings = {
            "unexpected": dict(self.unexpected),
            "dtypes": dict(self.dtypes),
            "metadata": without_passport(self.metadata),
        }
        return {**asdict(self), **mappings}

    def __str__(self) -> str:
        left_out = ", ".join(f"{len(names)} {reason}" for reason, names in self.unexpected.items())
        return (
            f"{self.arch} from {self.source} ({self.format}, {self.arm}): {len(self.matched)} tensors matched, "
            f"{some(self.missing)} missing, {left_out or '0'} left out, fingerprint {self.fingerprint[:16]}"
        )

    def lines(self) -> list[str]:
        """The report for a terminal, one entry a line."""
        rows = [
            ("file", f"{self.source}, read as {self.format}"),
            ("network", f"{self.arch}, {self.arm}"),
            ("matched", str(len(self.matched))),
            ("missing", some(self.missing, 6)),
            *((f"left out: {reason}", some(names)) for reason, names in self.unexpected.items()),
            ("beside", some(self.beside, 12)),
            ("reshaped", some(self.reshaped)),
            ("filled", some(self.filled)),
            ("types", ", ".join(f"{count} {name}" for name, count in self.dtypes.items())),
            ("fingerprint", self.fingerprint),
        ]
        width = max(len(name) for name, _ in rows)
        return [f"{name:<{width}}  {value}" for name, value in rows if value != "0"]


def some(names: Sequence[str], shown: int = 3) -> str:
    """``5 (a, b, c, …)``: a count with the first names."""
    if not names:
        return "0"
    return f"{len(names)} ({', '.join(str(name) for name in names[:shown])}{', …' if len(names) > shown else ''})"
