"""What several verbs share: options, the meaning of their texts, and how results are printed."""

from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[
    list[str] | None,
    typer.Option("--config", help="Overlay: a YAML file, or a name in configs/ such as demo. May be repeated."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Top-level keys of the bundle, as YAML values: `medssl keys BUNDLE` lists them."
    ),
]
Key = Annotated[
    Path | None, typer.Option("--key", help="File with the pseudonym key; by default MEDSSL_KEY or your own key.")
]
PatientFrom = Annotated[
    str | None,
    typer.Option(
        "--patient-from",
        metavar="REGEX",
        help="Finds the patient in names of pictures and volumes (with / in paths): group 'patient' or the first.",
    ),
]
Patients = Annotated[
    Path | None, typer.Option("--patients", help="Their patients by a table instead: CSV with source and patient.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Query = Annotated[
    list[str] | None,
    typer.Option(
        "--query",
        metavar="KEY=VALUE",
        help="For a PACS: a QIDO-RS attribute, such as StudyDate=2024-. May be repeated.",
    ),
]
VerifyTls = Annotated[bool, typer.Option("--verify-tls/--no-verify-tls", help="For a PACS: verify its certificate.")]
Store = Annotated[Path | None, typer.Option("--store", help="Store that holds the table's sources.")]
Names = Annotated[
    Path | None,
    typer.Option(
        "--names", help="Of a store: its names file (`medssl ingest --names`); paths are written into the results."
    ),
]
RunDir = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]

Thresholds = Annotated[
    str | None,
    typer.Option(
        "--thresholds",
        metavar="P[,P...]|FILE",
        help="Several labels: from which probability one is named: for all, one a label, or a metrics.json.",
    ),
]


# What the verbs take by themselves, and how; bundles have components of some of these names.
_OPTIONS = {name: f"--{name} VALUE" for name in ("config", "data", "encoder", "out", "store")} | {"method": "METHOD"}


def methods(incomplete: str) -> list[str]:
    """Completes a method of pre-training."""
    return [name.removeprefix("ct_ssl_") for name in bundles(f"ct_ssl_{incomplete}")]


def splits(incomplete: str) -> list[str]:
    """Completes a split."""
    return [name for name in ("train", "validation", "test") if name.startswith(incomplete)]


def bundles(incomplete: str) -> list[str]:
    """Completes the name of a bundle."""
    from medssl_monai.resources import resource_dir

    return sorted(one.parents[1].name for one in resource_dir("bundles").glob(f"{incomplete}*/configs/metadata.json"))


NARROW = 60  # columns of a terminal
PIPE_WIDTH = 10_000  # characters: no limit that a table meets


def parse_overrides(pairs: list[str] | None) -> dict[str, Any]:
    """``["a=1", "b=[x, y]"]`` to ``{"a": 1, "b": ["x", "y"]}``; values are YAML, and ``1e-4`` is a number.

    Raises:
        ConfigError: an item without ``=``, a value that is not YAML, or an option of the command as a key.
    """
    import yaml

    from medssl_monai.errors import ConfigError

    result: dict[str, Any] = {}
    for pair in pairs or []:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"{pair!r} is not KEY=VALUE; write for instance max_epochs=10")
        if key in _OPTIONS:
            raise ConfigError(f"{pair!r}: {key} is an option, not a setting of the bundle; write {_OPTIONS[key]}")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"the value in {pair!r} is not YAML ({type(error).__name__}); quote it") from error
        result[key] = _number(value)
    return result


def _number(value: Any) -> Any:
    """YAML reads ``1e-4`` as text."""
    if isinstance(value, str):
        try:
            return float(value) if any(c.isdigit() for c in value) else value
        except ValueError:
            return value
    return value


def print_json(content: Any) -> None:
    """Print JSON to stdout, for a program to read."""
    import json

    typer.echo(json.dumps(content, indent=2))


def print_tables(*tables: Any) -> None:
    """Print tables of `medssl_monai.terminal` to stdout, for a person to read.

    A terminal's width holds for a terminal; one that is too narrow for the longest words of a table gets a line a cell.
    In a pipe or a file every table is as wide as its content.
    """
    from rich.console import Console
    from rich.measure import Measurement

    console = Console()
    for table in tables:
        wide = Console(width=PIPE_WIDTH)
        needed = Measurement.get(wide, wide.options, table)
        if not console.is_terminal:
            console = Console(width=needed.maximum)
        narrow = console.width < min(NARROW, needed.minimum)
        console.print(_lines_of(table) if narrow else table)


def _lines_of(table: Any) -> Any:
    """A rich table as text: its title, and of each row a line a cell that is not empty."""
    from rich.text import Text

    rows = zip(*(column.cells for column in table.columns), strict=True)
    names = [str(column.header) for column in table.columns]
    parts = ["\n".join(f"{name}: {cell}" for name, cell in zip(names, row, strict=True) if str(cell)) for row in rows]
    return Text("\n\n".join([str(part) for part in (table.title, *parts, table.caption) if part]))
