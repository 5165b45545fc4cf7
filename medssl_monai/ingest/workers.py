"""The same work on many items: in this process, in several on this machine, or on a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from typing import Any, TypeVar

from tqdm import tqdm

from medssl_monai.ingest.cluster import cluster_client

__all__ = ["Workers"]

T = TypeVar("T")
R = TypeVar("R")


PRELOADED = ["medssl_monai.ingest.pipeline", "blosc2"]
"""Imported once for all processes; neither starts threads."""


class Workers:
    """Who does the work. A context manager: processes are started when they are needed and end with it.

    Args:
        processes: on this machine; one means this process.
        scheduler: address of a Dask scheduler, such as tcp://host:8786, whose workers do it instead. They must see
            the same files under the same paths, have this package installed, and be trusted with the pseudonyms' key.
        progress: whether to show bars on stderr.
    """

    def __init__(self, processes: int = 1, scheduler: str | None = None, progress: bool = True) -> None:
        self.processes, self.scheduler, self.progress = processes, scheduler, progress
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        if self.processes > 1 and self.scheduler is None and _context().get_start_method() == "forkserver":
            forkserver.ensure_running()  # it imports while this process looks for files
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_pool()

    def map(
        self,
        work: Callable[[T], R],
        items: Sequence[T],
        title: str,
        chunk: int,
        crashed: Callable[[T], R] | None = None,
        apart: bool = False,
        keep: Callable[[R], R] | None = None,
    ) -> list[R]:
        """Results in the order of the items.

        Args:
            work: picklable where other processes do it.
            items: likewise.
            title: of the bar.
            chunk: items handed over at once.
            crashed: gives the result for an item whose process died, as a broken decoder may end one; without it, and
                where this process does the work, nothing is caught.
            apart: never do it in this process.
            keep: makes of each result, as it comes, what is kept of it.

        Raises:
            InputError: the scheduler cannot be reached, or `dask` is not installed.
        """
        with tqdm(total=len(items), desc=title, disable=not self.progress, leave=False) as bar:
            results: list[R] = []
            for result in self._results(work, items, chunk, crashed, apart):
                results.append(result if keep is None else keep(result))
                bar.update()
        return results

    def _results(
        self,
        work: Callable[[T], R],
        items: Sequence[T],
        chunk: int,
        crashed: Callable[[T], R] | None,
        apart: bool,
    ) -> Iterator[R]:
        if self.scheduler is not None and items:
            yield from _on_cluster(self.scheduler, work, items, chunk, crashed)
        elif not items or (not apart and (self.processes == 1 or len(items) <= chunk)):
            yield from map(work, items)
        else:
            done = 0
            try:
                for result in self._in_pool(work, items, chunk):
                    done += 1
                    yield result
            except BrokenProcessPool:
                self._end_pool()
                if crashed is None:
                    raise
                # Which item it was is not known: the rest is done one by one, which is rare enough to be slow.
                yield from self._one_by_one(work, items[done:], crashed)

    def _one_by_one(self, work: Callable[[T], R], items: Sequence[T], crashed: Callable[[T], R]) -> Iterator[R]:
        for item in items:
            try:
                yield from self._in_pool(work, [item], 1)
            except BrokenProcessPool:
                self._end_pool()
                yield crashed(item)

    def _in_pool(self, work: Callable[[T], R], items: Sequence[T], chunk: int) -> Iterator[R]:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.processes, _context(), initializer=_begin)
        return self._pool.map(work, items, chunksize=chunk)

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


def _context() -> Any:
    """Not forked from this process: it may have threads (torch, blosc2), which do not survive a fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _begin() -> None:
    """What a process does first: leave Ctrl-C, which reaches all processes of a terminal, to the parent; and watch it.

    A parent that was killed could not end its processes, which would wait for work for ever.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _on_cluster(
    scheduler: str, work: Callable[[T], R], items: Sequence[T], chunk: int, crashed: Callable[[T], R] | None
) -> Iterator[R]:
    client = cluster_client(scheduler)
    from distributed import KilledWorker  # there, or the line above had said so

    chunks = [items[start : start + chunk] for start in range(0, len(items), chunk)]
    try:
        # Not pure: the same call again is work to be done again, the store may have changed in between.
        futures = client.map(_Chunk(work), chunks, pure=False)
        unclear: list[tuple[Sequence[T], list[R] | None]] = []
        for future, group in zip(futures, chunks, strict=True):
            try:
                results = future.result()
            except KilledWorker:  # several processes died of it, or of what they did beside it
                if crashed is None:
                    raise
                results = None
            if results is None or unclear:
                unclear.append((group, results))
            else:
                yield from results
            future.release()
        for group, results in unclear:
            for place, item in enumerate(group):
                if results is not None:
                    yield results[place]
                    continue
                try:  # now that nothing else is done, it is plain what is to blame
                    (result,) = client.submit(_Chunk(work), [item], pure=False).result()
                except KilledWorker:
                    assert crashed is not None
                    result = crashed(item)
                yield result
    finally:
        client.close()


@dataclass(frozen=True)
class _Chunk:
    """The work on several items, in one task."""

    work: Callable[[Any], Any]

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        return [self.work(item) for item in items]
