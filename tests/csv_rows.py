"""CSV files that the product writes."""

import csv
from pathlib import Path


def rows(path: Path) -> list[dict[str, str]]:
    """The rows, each by the names of the columns."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
