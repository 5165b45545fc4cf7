"""The reader's form: it shows a series and takes its class. `form_routes` serves it, ``form.html`` is the page.

The page names a series by the pseudonym of its record, never by an identifier of a PACS, and a slice by its position
among the slices that a network reads.
"""

import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from medssl_monai.drawing import natural_order
from medssl_monai.errors import ConfigError, NoImagesError
from medssl_monai.label_server.class_labels import ClassLabel
from medssl_monai.label_server.networks import ServedNetwork
from medssl_monai.label_server.records import FINAL, Records
from medssl_monai.label_server.refusals import ChangedLabelError
from medssl_monai.label_server.studies import Studies
from medssl_monai.store.thumbnails import in_proportion
from medssl_monai.transforms.ct_window import window_limits
from medssl_monai.windows import AdaptiveWindow, HUWindow, WindowSpec, parse_windows, window_presets

KEY_SLICES = 6
LARGEST_SIDE = 1024
"""Pixels of a picture; larger images are reduced."""
RUN = "run"
"""The window of the classifier, among the names of windows."""

Label = dict[str, Any]


@dataclass(frozen=True)
class ReaderForm:
    """What the page asks and saves. Answers are JSON values, and name nobody.

    Args:
        studies: of the server.
        records: of the server.
        network: gives the classes and the window.
        suggest: the image that a strategy chooses, without some images; None if none is left.
        strategies: names and descriptions.
    """

    studies: Studies
    records: Records
    network: ServedNetwork
    suggest: Callable[[str, Collection[str]], str | None]
    strategies: Mapping[str, str]

    def start(self) -> dict[str, Any]:
        """The choices of the page: strategies and windows, with the one that each begins with."""
        return {
            "strategies": dict(self.strategies),
            "strategy": "uncertain" if self.network.usable else "random",
            "windows": self._windows(),
            "window": RUN,
        }

    def next(self, strategy: str, skipped: Collection[str]) -> dict[str, Any]:
        """The series to label next, as `series` gives it; its ``series`` is None if none is left.

        ``unreadable`` lists series that were passed over because no slice of them can be shown.

        Args:
            strategy: one of `strategies`.
            skipped: series that are not chosen.

        Raises:
            ConfigError: the strategy is unknown, or has no network yet.
            UnknownImageError: a skipped series is unknown.
        """
        if strategy not in self.strategies:
            raise ConfigError(f"strategy: must be one of {', '.join(self.strategies)}, found {strategy[:40]!r}")
        without = {self.studies.image_of(name) for name in skipped}
        unreadable: list[str] = []
        while (image := self.suggest(strategy, without)) is not None:
            name = self.studies.record_name(image)
            try:
                return {**self.series(name), "unreadable": unreadable}
            except NoImagesError:
                without.add(image)
                unreadable.append(name)
        return {"series": None, "unreadable": unreadable, **self._progress()}

    def series(self, name: str) -> dict[str, Any]:
        """A series: numbers of its slices, positions of the key slices, its label, and how much is labelled.

        Raises:
            UnknownImageError: there is no such series.
            NoImagesError: it has no slice of the server's kind.
        """
        rows = self.studies.rows(self.studies.image_of(name))
        return {
            "series": name,
            "slices": [row["slice"] for row in rows],
            "key": key_positions(len(rows)),
            "sides": all(row["plane"] == "axial" for row in rows),
            "label": _content(self.records.class_label(name)),
            **self._progress(),
        }

    def picture(self, name: str, position: int, window: str = RUN) -> bytes:
        """A slice as PNG: 8 bits, square pixels, at most `LARGEST_SIDE` a side.

        Args:
            name: of the series.
            position: of the slice in ``slices`` of `series`.
            window: a name in ``windows`` of `start`.

        Raises:
            ConfigError: there is no such slice or window.
            UnknownImageError, NoImagesError: as `series`.
        """
        rows = self.studies.rows(self.studies.image_of(name))
        if not 0 <= position < len(rows):
            raise ConfigError(f"position: must be 0 to {len(rows) - 1}, found {position}")
        if window not in self._windows():
            raise ConfigError(f"window: must be one of {', '.join(self._windows())}, found {window[:40]!r}")
        row = rows[position]
        pixels = self.studies.store.read(row["series_id"], row["slice"])
        low, high = _limits(self._run_window if window == RUN else window, pixels, row)
        grey = np.clip((pixels.astype(np.float32) - low) / (high - low) * 255, 0, 255).round().astype(np.uint8)
        return cv2.imencode(".png", in_proportion(grey, row, min(LARGEST_SIDE, max(grey.shape))))[1].tobytes()

    def save(self, name: str, chosen: str | None, before: Label | None) -> None:
        """Save the class of a series as a final label, as clients do; None removes it. Classes of single slices stay.

        Args:
            name: of the series.
            chosen: the class.
            before: the label that the reader saw, as `series` gave it.

        Raises:
            ChangedLabelError: the series has another label by now.
            LabelError: a class name has other characters.
            UnknownImageError: there is no such series.
        """
        record = self.studies.record_name(self.studies.image_of(name))
        now = _content(self.records.class_label(record))
        if now != before:
            raise ChangedLabelError(
                f"series {name}: another reader has labelled it meanwhile; look at its class again before you change it"
            )
        content = {key: value for key, value in (now or {}).items() if key != "label"}
        if chosen is not None:
            content = {"label": chosen, **content}
        if not content:
            if now is not None:
                self.records.remove_label(record, self.records.class_tag(record))
            return
        with tempfile.TemporaryDirectory(dir=self.studies.workspace.tmp) as folder:
            file = Path(folder) / "label.json"
            file.write_text(json.dumps(content), encoding="utf-8")
            self.records.save_label(record, file, FINAL, {})

    def _progress(self) -> dict[str, Any]:
        """Numbers of labelled and of all series, and the classes: the classifier's, then those of labels."""
        ids = self.studies.ids()
        labels = [self.records.class_label(self.studies.record_name(one)) for one in ids]
        given = [label for label in labels if label is not None]
        served = self.network.view.classes if self.network.usable else ()
        others = natural_order({name for label in given for name in label.classes} - set(served))
        return {"labelled": len(given), "total": len(ids), "classes": [*served, *others]}

    @property
    def _run_window(self) -> WindowSpec:
        if self.network.usable:
            window: WindowSpec = self.network.view.window
            return window
        return "wide" if self.studies.settings.modality == "CT" else "minmax"

    def _windows(self) -> dict[str, str]:
        """Names of the windows and what they show: limits in HU for CT only, ``picture`` for all but CT."""
        is_ct = self.studies.settings.modality == "CT"
        presets = {name: _words(name, one) for name, one in window_presets().items() if _fits(one, is_ct)}
        return {RUN: _words("run's window", parse_windows(self._run_window)[0]), **presets}


def key_positions(count: int) -> list[int]:
    """Evenly spaced positions among ``count`` slices, at most `KEY_SLICES`, as far from both ends as from half a gap.

    Example:
        >>> key_positions(12)
        [1, 3, 5, 7, 9, 11]
    """
    number = min(count, KEY_SLICES)
    return [(2 * i + 1) * count // (2 * number) for i in range(number)]


def _limits(window: WindowSpec, pixels: npt.NDArray[np.int16], row: Mapping[str, Any]) -> tuple[float, float]:
    """Of the first window for a slice; without usable tags ``tags`` is ``minmax``."""
    whole = HUWindow(*window_limits(["minmax"], pixels)[0])
    return window_limits(parse_windows(window)[:1], pixels, row["window_level"], row["window_width"], whole)[0]


def _fits(window: HUWindow | AdaptiveWindow, is_ct: bool) -> bool:
    return window != "picture" if is_ct else not isinstance(window, HUWindow)


def _words(name: str, window: HUWindow | AdaptiveWindow) -> str:
    if isinstance(window, HUWindow):
        return f"{name}: {window.low:g} to {window.high:g} HU"
    sources = {"tags": "from the image's tags", "minmax": "of each slice", "picture": "of the file"}
    return f"{name}: {sources[window]}"


def _content(label: ClassLabel | None) -> Label | None:
    """A label as the JSON that clients send."""
    if label is None:
        return None
    slices = {str(number): name for number, name in sorted(label.slices.items())}
    return {**({"label": label.study} if label.study else {}), **({"slices": slices} if slices else {})}
