"""A study's trainings: one after the other, in several processes, or on a Dask cluster."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from medssl_monai.cluster import cluster_client
from medssl_monai.errors import InputError
from medssl_monai.experiment.cells import run_cell
from medssl_monai.experiment.inputs import StudyInputs
from medssl_monai.experiment.plan import Cell, StudyPlan
from medssl_monai.experiment.side_by_side import side_by_side
from medssl_monai.progress import progress_bar


def run_cells(
    plan: StudyPlan, inputs: StudyInputs, cells: Sequence[Cell], out: Path, scheduler: str | None = None
) -> None:
    """Run cells and show how many of the study's are done.

    Args:
        plan: of the study; its ``workers`` are processes on this machine.
        inputs: from `prepare`.
        cells: that are to be run.
        out: the study's folder.
        scheduler: address of a Dask scheduler. Its workers must see ``out`` and the weights under the same paths, have
            this package installed, and have one thread each, for a training sets its process's random numbers.

    Raises:
        InputError: the scheduler cannot be used.
    """
    bar = progress_bar(total=len(plan.cells), initial=len(plan.cells) - len(cells), desc="study", unit="cell")
    with bar:
        if scheduler is not None and cells:
            done = _on_cluster(scheduler, partial(run_cell, plan, inputs, out=out), cells)
        elif plan.workers == 1:
            done = _one_by_one(bar, plan, inputs, cells, out)
        else:
            done = side_by_side(partial(run_cell, plan, inputs, out=out), cells, plan.workers)
        for _ in done:
            bar.update()


def _one_by_one(bar: Any, plan: StudyPlan, inputs: StudyInputs, cells: Sequence[Cell], out: Path) -> Iterator[None]:
    for cell in cells:
        bar.set_postfix_str(cell.folder)
        run_cell(plan, inputs, cell, out)
        yield


def _on_cluster(scheduler: str, work: Any, cells: Sequence[Cell]) -> Iterator[None]:
    client = cluster_client(scheduler)
    from distributed import as_completed as completed  # there, or the line above had said so

    try:
        threads = client.nthreads()
        if not threads or max(threads.values()) > 1:
            found = f"workers with {max(threads.values())} threads" if threads else "no worker"
            raise InputError(
                f"scheduler {scheduler}: a study needs workers of one thread each, found {found}; start them with "
                "`dask worker ADDRESS --nworkers N --nthreads 1`"
            )
        # Not pure: the same call again is work to be done again.
        futures = [client.submit(work, cell, pure=False) for cell in cells]
        each: Any = completed
        for future in each(futures, loop=client.loop):
            yield future.result()
    finally:
        client.close()  # what was not begun is forgotten with the futures
