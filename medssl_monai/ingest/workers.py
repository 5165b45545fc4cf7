"""The same work on many items: in this process, in several on this machine, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from tqdm import tqdm

from medssl_monai.errors import InputError

__all__ = ["Workers"]

T = TypeVar("T")
R = TypeVar("R")

SECONDS_TO_CONNECT = 20


@dataclass(frozen=True)
class Workers:
    """Who does the work.

    Attributes:
        processes: on this machine; one means this process.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, whose workers do it instead. They must see
            the same files under the same paths, have this package installed, and be trusted with the pseudonyms' key.
        progress: whether to show bars on stderr.
    """

    processes: int = 1
    scheduler: str | None = None
    progress: bool = True

    def map(
        self,
        work: Callable[[T], R],
        items: Sequence[T],
        title: str,
        chunk: int,
        crashed: Callable[[T], R] | None = None,
    ) -> list[R]:
        """Results in the order of the items.

        Args:
            work: picklable where other processes do it.
            items: likewise.
            title: of the bar.
            chunk: items handed over at once.
            crashed: gives the result for an item whose process died, as a broken decoder may end one; without it, and
                where this process does the work, nothing is caught.

        Raises:
            InputError: the scheduler cannot be reached, or `dask` is not installed.
        """
        with tqdm(total=len(items), desc=title, disable=not self.progress, leave=False) as bar:
            results: list[R] = []
            for result in self._results(work, items, chunk, crashed):
                results.append(result)
                bar.update()
        return results

    def _results(
        self, work: Callable[[T], R], items: Sequence[T], chunk: int, crashed: Callable[[T], R] | None
    ) -> Iterator[R]:
        if self.scheduler is not None and items:
            yield from _on_cluster(self.scheduler, work, items, chunk)
        elif self.processes == 1 or len(items) <= chunk:
            yield from map(work, items)
        else:
            done = 0
            try:
                for result in _in_processes(min(self.processes, len(items)), work, items, chunk):
                    done += 1
                    yield result
            except BrokenProcessPool:
                if crashed is None:
                    raise
                # Which item it was is not known: the rest is done one by one, which is rare enough to be slow.
                yield from _one_by_one(work, items[done:], crashed)


def _one_by_one(work: Callable[[T], R], items: Sequence[T], crashed: Callable[[T], R]) -> Iterator[R]:
    rest = list(items)
    while rest:
        try:
            for result in _in_processes(1, work, list(rest), 1):
                rest.pop(0)
                yield result
        except BrokenProcessPool:
            yield crashed(rest.pop(0))


def _in_processes(count: int, work: Callable[[T], R], items: Sequence[T], chunk: int) -> Iterator[R]:
    # Spawned, not forked: the caller may have threads (torch, blosc2), which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_leave_interrupts_to_the_parent)
    try:
        yield from pool.map(work, items, chunksize=chunk)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal: workers end the series they are at, and no more are given out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _on_cluster(scheduler: str, work: Callable[[T], R], items: Sequence[T], chunk: int) -> Iterator[R]:
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "scheduler: needs the package distributed, which is not installed; pip install 'medssl-monai[dask]'"
        ) from error
    try:
        connect: Any = Client  # has no types
        client = connect(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"scheduler {scheduler}: no Dask scheduler answers there ({type(error).__name__}); "
            "start one with `dask scheduler`, or correct the address"
        ) from error
    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    try:
        # Not pure: the same call again is work to be done again, the store may have changed in between.
        futures = client.map(_Chunk(work), chunks, pure=False)
        for future in futures:
            yield from future.result()
            future.release()
    finally:
        client.close()


@dataclass(frozen=True)
class _Chunk:
    """The work on several items, in one task."""

    work: Callable[[Any], Any]

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        return [self.work(item) for item in items]
