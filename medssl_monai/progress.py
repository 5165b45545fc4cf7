"""Progress bars, which ``medssl VERB --quiet`` hides."""

import os
import sys
from typing import Any
from weakref import WeakSet

QUIET = "MEDSSL_QUIET"
"""Environment variable that hides all bars, also those of processes that inherit it."""


SECONDS_IN_FILE = 30
"""Between two lines of a bar in a pipe or a file, which keep all of them."""

_bars: WeakSet[Any] = WeakSet()


def progress_bar(*arguments: Any, shown: bool = True, **options: Any) -> Any:
    """`tqdm` with these arguments; silent where it is not to be shown, or where `QUIET` is set.

    In a pipe, a file or a terminal that cannot move its cursor, a bar is shown rarely, and a bar within another not at
    all: that would write escape codes.
    """
    from tqdm.auto import tqdm

    bar: Any = tqdm
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        shown = shown and all(one.disable for one in _bars)  # a closed bar is disabled
        options = {"mininterval": SECONDS_IN_FILE, **options}
    made = bar(*arguments, disable=not shown or bool(os.environ.get(QUIET)), **options)
    _bars.add(made)
    return made
