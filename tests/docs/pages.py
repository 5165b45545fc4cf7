"""What the tests of the docs share: the pages, the commands in them, and how a command is run at smoke size."""

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import fire.parser
import pytest
from monai.bundle import ConfigWorkflow

from medssl_monai.cli.main import main
from medssl_monai.resources import shipped_encoders

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
PAGES += sorted((ROOT / "bundles").glob("*/docs/README.md"))
SMALL = ["arch=resnet18", "image_size=64", "batch_size=6", "num_workers=0", "max_epochs=1", "device=cpu"]
OWN = {
    "spark": ["decoder_width=32"],
    "swav": ["counts=[2, 1]", "queue_length=12", "queue_start_epoch=0"],
    "moco": ["queue_length=12"],
}


def fences(page: Path) -> list[tuple[str, str]]:
    """Fenced blocks: what stands behind the opening fence, and the text. Fences stand alone at a line's start."""
    found = re.findall(r"^```([^\n`]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [(language.strip(), text) for language, text in found]


def blocks(page: Path, *languages: str) -> list[str]:
    """Blocks in one of the languages; by default those that hold commands."""
    return [text for language, text in fences(page) if language in (languages or ("", "sh"))]


def lines(page: Path, *languages: str) -> list[str]:
    """Lines of the blocks, without comments."""
    return [line.split(" # ")[0].strip() for block in blocks(page, *languages) for line in block.splitlines()]


def commands(page: Path, *languages: str) -> list[list[str]]:
    """Words of each ``medssl`` and ``monai.bundle`` command, without the variables that are set before it."""
    found = [re.sub(r"^(?:[A-Z]+=\S+ )+", "", line) for line in lines(page, *languages)]
    return [shlex.split(line) for line in found if line.startswith(("medssl ", "python -m monai.bundle "))]


def run_medssl(words: list[str], monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """Run a command in this process, smaller; it ends with `code`."""
    small: list[str] = []
    if words[1] == "pretrain":
        small = [*SMALL, *OWN.get(words[2], [])]
    elif words[1] == "finetune":
        shipped = not set(words).isdisjoint(shipped_encoders())
        small = [pair for pair in SMALL if not (shipped and pair.startswith("arch="))]  # it follows the encoder
    monkeypatch.setattr(sys, "argv", [*words, *small])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code or 0) == code, words


def run_bundle_command(words: list[str], **smaller: Any) -> None:
    """``python -m monai.bundle run`` without its process and its logging, which would outlive the test.

    `smaller` replaces keys of the command.
    """
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    values: dict[str, Any] = dict(zip((w.removeprefix("--") for w in words[4::2]), words[5::2], strict=True))
    values = {k: fire.parser.DefaultParseValue(v) if k != "config_file" else v for k, v in values.items()}
    files = fire.parser.DefaultParseValue(values.pop("config_file"))
    small = dict(pair.split("=") for pair in SMALL)
    first = Path(files if isinstance(files, str) else files[0])
    if first.name == "train.yaml" and not isinstance(files, list):
        values |= {k: fire.parser.DefaultParseValue(v) for k, v in small.items()}
        if "spark" in str(first.resolve()):
            values["decoder_width"] = 32
        elif "swav" in str(first.resolve()):
            values |= {"counts": [2, 1], "queue_length": 12, "queue_start_epoch": 0}
    values |= smaller
    workflow = ConfigWorkflow(config_file=files, workflow_type="train", logging_file=False, **values)
    workflow.initialize()
    workflow.run()
    workflow.finalize()
