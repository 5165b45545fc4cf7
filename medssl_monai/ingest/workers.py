"""The same work on many items: in this process, in several on this machine, or on a Dask cluster."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from itertools import islice
from multiprocessing import spawn
from types import FunctionType, SimpleNamespace
from typing import Any, TypeVar

from medssl_monai.cluster import cluster_client
from medssl_monai.errors import InputError
from medssl_monai.parent import end_with_parent
from medssl_monai.progress import progress_bar

T = TypeVar("T")
R = TypeVar("R")


IN_HAND = 4
"""Chunks handed over for each process, so that none waits; more would only lie in memory."""

PROCESS_NAME = "medssl-ingest"

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
        self._starting: threading.Thread | None = None

    def __enter__(self) -> Workers:
        if self.processes > 1 and self.scheduler is None:
            # They import what they need while this process looks for files; starting one waits for that.
            self._starting = threading.Thread(target=self._start_pool, daemon=True)
            self._starting.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end_pool()

    def each(
        self,
        work: Callable[[T], R],
        items: Iterable[T],
        count: int,
        *,
        chunk: int = 1,
        crashed: Callable[[T], R] | None = None,
        apart: bool = False,
        here: int = 0,
    ) -> Iterator[R]:
        """Results in the order of the items, which are asked for little by little.

        Args:
            work: picklable where other processes do it, which do not have what the main module defines.
            items: likewise.
            count: how many there are, about; so few as fill no chunk are not worth handing over.
            chunk: items handed over at once.
            crashed: gives the result for an item whose process died, as a broken decoder may end one; without it, and
                where this process does the work, nothing is caught.
            apart: never do it in this process.
            here: so many of the first items are done in this process, where others are only being started.

        Raises:
            InputError: the scheduler cannot be reached, or `dask` is not installed; no process can be started.
        """
        left = iter(items)
        if self.scheduler is not None:
            if count:
                yield from _on_cluster(self.scheduler, work, left, chunk, crashed)
        elif not apart and (self.processes == 1 or count <= chunk):
            yield from map(work, left)
        else:
            yield from map(work, islice(left, 0 if apart else here))
            yield from self._in_processes(work, left, chunk, crashed)

    def bar(self, count: int, title: str) -> Any:
        """A bar on stderr; a silent one where there is nothing to do."""
        return progress_bar(total=count, desc=title, shown=self.progress and count > 0, leave=False)

    def _in_processes(
        self, work: Callable[[T], R], items: Iterator[T], chunk: int, crashed: Callable[[T], R] | None
    ) -> Iterator[R]:
        groups: deque[Sequence[T]] = deque()
        futures: deque[Future[list[R]]] = deque()
        while True:
            try:
                while len(groups) < IN_HAND * self.processes and (group := list(islice(items, chunk))):
                    groups.append(group)
                    futures.append(self._submit(_Chunk(work), group))
                if not groups:
                    return
                results = futures[0].result()
            except BrokenProcessPool:
                self._end_pool()
                if crashed is None:
                    self._check_start()
                    raise
                # Which item it was is not known: all that were handed over are done one by one, rare enough to be slow.
                handed_over = [item for group in groups for item in group]
                groups.clear()
                futures.clear()
                yield from self._one_by_one(work, handed_over, crashed)
            else:
                groups.popleft()
                futures.popleft()
                yield from results

    def _one_by_one(self, work: Callable[[T], R], items: Sequence[T], crashed: Callable[[T], R]) -> Iterator[R]:
        for item in items:
            self._check_start()
            try:
                yield from self._submit(_Chunk(work), [item]).result()
            except BrokenProcessPool:
                self._end_pool()
                yield crashed(item)

    def _submit(self, work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> Future[list[R]]:
        self._await_start()
        if self._pool is None:
            self._start_pool()
        assert self._pool is not None
        return self._pool.submit(work, items)

    def _check_start(self) -> None:
        """That a process can be started at all: otherwise every item would seem to have ended its process."""
        try:
            self._submit(list, []).result()
        except BrokenProcessPool as error:
            self._end_pool()
            raise InputError(
                "ingestion: processes end before they do anything, so that nothing can be decoded; free memory, or "
                "allow this user more processes (ulimit -u), then run the same command again"
            ) from error

    def _start_pool(self) -> None:
        self._pool = ProcessPoolExecutor(self.processes, _context(), initializer=_begin)
        with suppress(BrokenProcessPool):  # the first item will meet it too
            for _ in range(self.processes):
                self._pool.submit(os.getpid)

    def _await_start(self) -> None:
        if self._starting is not None:
            self._starting.join()
            self._starting = None

    def _end_pool(self) -> None:
        self._await_start()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


@cache
def _context() -> Any:
    """Not forked from this process: it may have threads (torch, blosc2), which do not survive a fork."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    shared: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        shared.set_forkserver_preload(PRELOADED)
    context = type(shared)()

    def process(*arguments: Any, **options: Any) -> Any:
        made = shared.Process(*arguments, name=PROCESS_NAME, **options)
        if os.name == "posix":
            made._Popen = partial(_launch_without_main, f"popen_{method.replace('spawn', 'spawn_posix')}")
        return made

    context.Process = process
    return context


def _launch_without_main(module: str, process: Any) -> Any:
    """Starts a process that does not import the caller's main module, as processes of the standard library do.

    A script that calls `build_store` without ``if __name__ == "__main__"`` would begin again in each of them. The
    standard library has no option for that: its launcher runs here with another `get_preparation_data`.
    """
    launcher: Any = import_module(f"multiprocessing.{module}").Popen

    def preparation(name: str) -> dict[str, Any]:
        told = spawn.get_preparation_data(name)
        return {key: value for key, value in told.items() if not key.startswith("init_main_from_")}

    own = SimpleNamespace(**{**vars(spawn), "get_preparation_data": preparation})
    launch = FunctionType(launcher._launch.__code__, {**launcher._launch.__globals__, "spawn": own})
    return type("Popen", (launcher,), {"_launch": launch})(process)


def _begin() -> None:
    """What a process does first. Ctrl-C reaches all processes of a terminal; it is left to the parent."""
    gc.freeze()  # what was imported before the fork stays shared: the collector would write to every page of it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def _on_cluster(
    scheduler: str, work: Callable[[T], R], items: Iterator[T], chunk: int, crashed: Callable[[T], R] | None
) -> Iterator[R]:
    client = cluster_client(scheduler)
    from distributed import KilledWorker  # there, or the line above had said so

    in_hand = IN_HAND * max(2, sum(client.ncores().values()))
    on_way: deque[tuple[list[T], Any]] = deque()
    try:
        while True:
            while len(on_way) < in_hand and (group := list(islice(items, chunk))):
                # Not pure: the same call again is work to be done again, the store may have changed in between.
                on_way.append((group, client.submit(_Chunk(work), group, pure=False)))
            if not on_way:
                return
            try:
                results = on_way[0][1].result()
            except KilledWorker:  # several processes died of it, or of what they did beside it
                if crashed is None:
                    raise
                unclear = [(group, _unless(KilledWorker, future.result)) for group, future in on_way]
                on_way.clear()
                for group, done in unclear:
                    if done is not None:
                        yield from done
                        continue
                    for item in group:  # now that nothing else is done, it is plain what is to blame
                        alone = client.submit(_Chunk(work), [item], pure=False)
                        yield from _unless(KilledWorker, alone.result) or [crashed(item)]
            else:
                on_way.popleft()
                yield from results
    finally:
        client.close()


def _unless(error: type[Exception], call: Callable[[], list[R]]) -> list[R] | None:
    try:
        return call()
    except error:
        return None


@dataclass(frozen=True)
class _Chunk:
    """The work on several items, in one task."""

    work: Callable[[Any], Any]

    def __call__(self, items: Sequence[Any]) -> list[Any]:
        return [self.work(item) for item in items]
