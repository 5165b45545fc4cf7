"""Thresholds of several labels as a user gives them: numbers, or an evaluation's ``metrics.json`` that found them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medssl_monai.errors import ConfigError, InputError
from medssl_monai.statistics.multilabel import broadcast_thresholds


def chosen_thresholds(text: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The override ``thresholds`` for a run's evaluation or prediction; empty where none are given.

    Args:
        text: ``0.4`` for all labels; ``0.4,0.6``, one a label in the order of the run's classes; or a path of a
            ``metrics.json`` with ``thresholds_by_validation``. All are of the network's own probabilities, in [0, 1].
        settings: of the run, see `run_settings`.

    Raises:
        ConfigError: the run's classes exclude each other; or the text is neither numbers nor such a file.
        InputError: the file knows no thresholds of these classes.
    """
    if text is None:
        return {}
    if settings.get("task") != "multilabel":
        raise ConfigError(
            "--thresholds: the classes of this run exclude each other, so the most probable is named; leave it out"
        )
    classes, path = settings["classes"], Path(text)
    if path.is_file():
        return {"thresholds": _recommended(path, classes)}
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"--thresholds: {text!r} is neither numbers (0.4, or 0.4,0.6: one a label) nor the metrics.json of an "
            "evaluation; correct it"
        ) from error
    given = numbers[0] if len(numbers) == 1 else numbers
    return {"thresholds": broadcast_thresholds(given, len(classes)).tolist()}


def _recommended(path: Path, classes: Sequence[str]) -> list[float]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["thresholds_by_validation"]["thresholds"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--thresholds {path}: holds no thresholds_by_validation; give the metrics.json of an evaluation on the "
            "test rows of a label table that has validation rows"
        ) from error
    if sorted(found) != sorted(classes):
        raise InputError(
            f"--thresholds {path}: is of the labels {', '.join(sorted(found))}, this run's are "
            f"{', '.join(sorted(classes))}; give an evaluation of this run"
        )
    return list(map(float, broadcast_thresholds([found[name] for name in classes], len(classes))))
