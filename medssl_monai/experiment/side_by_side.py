"""Trainings of a study in several processes of this machine, each with a log of its own."""

import contextlib
import logging
import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from medssl_monai.parent import end_with_parent


def side_by_side(work: Callable[..., Any], items: Sequence[Any], workers: int) -> Iterator[Any]:
    """What `work` returns for each item, in the order in which they end.

    The first error is raised; what runs then ends first, and what has not begun is dropped. Processes end with this
    one, even if it is killed.

    Args:
        work: can be pickled; is called with an item and ``threads``, the number of threads that a process may use.
        items: can be pickled.
        workers: number of processes.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Spawned, not forked: torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        running = [pool.submit(work, item, threads=threads) for item in items]
        try:
            for future in as_completed(running):
                yield future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextlib.contextmanager
def into_log(path: Path) -> Iterator[None]:
    """Add what libraries print to a file: progress bars of several processes do not fit one terminal."""
    root = logging.getLogger()
    with path.open("a", encoding="utf-8") as log:
        handler = logging.StreamHandler(log)
        root.addHandler(handler)
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), warnings.catch_warnings():
                yield
        finally:
            root.removeHandler(handler)
