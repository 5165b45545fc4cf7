"""Facts of files, such as their format, that tell the class: a network can learn them in place of the disease.

A class is guessed from one fact alone: from the other files with the same value, by the class in which that value is
most frequent (the best guess where all classes weigh the same). Guesses leave the file itself out, so that a value that
only one file has, such as a size, says nothing. The measure is the balanced accuracy of these guesses.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

SHARE = 0.2
"""Least share of the way from chance to perfect guesses that is reported. Below it a network that reads the file alone
gains less than 10 points of balanced accuracy in two classes, which is the size of the differences that are studied."""

DEVIATIONS = 3
"""Least distance from chance in standard deviations of a guesser by chance: small sets agree by accident."""

SHOWN = 4


@dataclass(frozen=True)
class Telltale:
    """One fact that tells the class.

    Attributes:
        data: the set of files.
        fact: such as "format".
        balanced_accuracy: of guesses by this fact alone, in [0, 1].
        chance: one over the number of classes.
        counts: of the commonest values, the number of files by class.
    """

    data: str
    fact: str
    balanced_accuracy: float
    chance: float
    counts: Mapping[str, Mapping[str, int]]

    @property
    def sentence(self) -> str:
        """One line."""
        values = "; ".join(
            f"{value}: {', '.join(f'{name} {number}' for name, number in held.items())}"
            for value, held in self.counts.items()
        )
        return (
            f"{self.data}: the {self.fact} of the files tells the class with balanced accuracy "
            f"{self.balanced_accuracy:.3f} (chance {self.chance:.3f}): {values}"
        )


def telltales(data: str, facts: Mapping[str, Sequence[str]], labels: Sequence[str]) -> list[Telltale]:
    """The facts that tell the class, those that tell most first.

    Args:
        data: name of the set.
        facts: values of each fact, one a file.
        labels: class of each file.

    Example:
        >>> kinds = ["PNG"] * 9 + ["JPEG"] * 9
        >>> telltales("scans", {"format": kinds}, ["sick"] * 9 + ["well"] * 9)[0].balanced_accuracy
        1.0
    """
    sizes = Counter(labels)
    chance = 1 / max(len(sizes), 1)
    if len(sizes) < 2:
        return []
    spread = chance * math.sqrt(sum(chance * (1 - chance) / number for number in sizes.values()))
    least = chance + max(SHARE * (1 - chance), DEVIATIONS * spread)
    found = []
    for fact, values in facts.items():
        accuracy = guessed(values, labels)
        if accuracy >= least:
            common = [value for value, _ in Counter(values).most_common(SHOWN)]
            held = Counter(zip(values, labels, strict=True))
            counts = {value: {name: held[value, name] for name in sorted(sizes)} for value in common}
            found.append(Telltale(data, fact, round(accuracy, 4), round(chance, 4), counts))
    return sorted(found, key=lambda one: -one.balanced_accuracy)


def guessed(values: Sequence[str], labels: Sequence[str]) -> float:
    """Balanced accuracy of guessing each file's class from the other files with its value; ties share the credit."""
    classes, truth = np.unique(labels, return_inverse=True)
    kinds, kind = np.unique(values, return_inverse=True)
    table = np.zeros((len(kinds), len(classes)))
    np.add.at(table, (kind, truth), 1)
    sizes = table.sum(axis=0)
    credit = []
    for value, label in np.argwhere(table):
        seen = table[value].copy()
        seen[label] -= 1
        others = sizes.copy()
        others[label] -= 1
        rates = seen / np.maximum(others, 1)
        best = np.isclose(rates, rates.max())
        credit.append((table[value, label], label, best[label] / best.sum()))
    right = np.zeros(len(classes))
    for number, label, share in credit:
        right[label] += number * share
    return float((right / sizes).mean())
