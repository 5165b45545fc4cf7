"""Progress bars, which ``medssl VERB --quiet`` hides."""

import os
from typing import Any

QUIET = "MEDSSL_QUIET"
"""Environment variable that hides all bars, also those of processes that inherit it."""


def progress_bar(*arguments: Any, shown: bool = True, **options: Any) -> Any:
    """`tqdm` with these arguments; silent where it is not to be shown, or where `QUIET` is set."""
    from tqdm.auto import tqdm

    bar: Any = tqdm
    return bar(*arguments, disable=not shown or bool(os.environ.get(QUIET)), **options)
