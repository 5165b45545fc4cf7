"""Pictures and data sets of pictures in their published layouts, made for tests."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(path: Path, shape: tuple[int, ...] = (20, 30), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def organ_file(path: Path, sizes: tuple[int, int, int] = (44, 22, 33), **other: Any) -> Path:
    generator = np.random.default_rng(0)
    arrays = {}
    for part, n in zip(("train", "val", "test"), sizes, strict=True):
        arrays[f"{part}_images"] = generator.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(n) % 11).astype(np.uint8)[:, None]
    np.savez(path, **{**arrays, **other})
    return path


def parted(root: Path, **parts: str) -> Path:
    """Folders of splits, each with two pictures in each of its classes."""
    for part, names in parts.items():
        for label in names.split():
            for i in range(2):
                picture(root / part / label / f"{i}.png", seed=i)
    return root
