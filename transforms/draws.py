"""Random numbers that depend on (seed, epoch, sample index) alone, never on a worker, a rank or an order.

Philox is a counter-based generator (Salmon et al., SC 2011, "Parallel random numbers: as easy as 1, 2, 3"): the key
comes from the run's seed, the counter's high words from epoch and index. Streams of different samples cannot meet
before 2^64 blocks were drawn. Only ``Generator.random`` is used on it (``uniform``, ``below``, ``subset``): NumPy may
change its other distributions between releases, and a run must replay.
"""

import math

import numpy as np

_WORD = 2**64


def sample_generator(seed: int, epoch: int, index: int, stream: int = 0) -> np.random.Generator:
    """The generator of one sample in one epoch.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        index: the sample's index in its dataset, counted from 0.
        stream: separates independent purposes for the same sample.

    Raises:
        ValueError: a number is negative or needs more than 64 bits.
    """
    for name, value in {"seed": seed, "epoch": epoch, "index": index, "stream": stream}.items():
        if not 0 <= value < _WORD:
            raise ValueError(f"{name} {value} must lie in 0 .. 2^64 - 1")
    key = np.array([seed, stream], dtype=np.uint64)
    # The low words count the blocks that this sample draws.
    counter = np.array([0, 0, index, epoch], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """One number uniform in [low, high)."""
    return low + (high - low) * float(rng.random())


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """One number with a uniform logarithm; 0 < low <= high."""
    return math.exp(uniform(rng, math.log(low), math.log(high)))


def below(rng: np.random.Generator, count: int) -> int:
    """One integer uniform in 0 .. count - 1."""
    return min(int(rng.random() * count), count - 1)


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def subset(rng: np.random.Generator, count: int, chosen: int) -> tuple[int, ...]:
    """``chosen`` of the integers 0 .. count - 1, every subset equally likely, in rising order."""
    return tuple(sorted(np.argsort(rng.random(count), kind="stable")[:chosen].tolist()))


def visible_cells(cells: int, mask_ratio: float) -> int:
    """How many of a mask's cells stay visible: round(cells · (1 − ratio)), halves to even as in the authors' code.

    Raises:
        ValueError: no cell would be visible, or none masked.
    """
    visible = round(cells * (1 - mask_ratio))
    if not 0 < visible < cells:
        raise ValueError(
            f"mask_ratio {mask_ratio} leaves {visible} of {cells} visible: at least one cell must be visible and one "
            "masked; take larger images or another ratio"
        )
    return visible
