"""The paper's experiment: how good a classifier is, by encoder and by how many labels it was given."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from medssl_monai.atomic import write_json
from medssl_monai.downstream.study_cells import cell_done, run_cell
from medssl_monai.downstream.study_inputs import StudyInputs, prepare, public_key
from medssl_monai.downstream.study_plan import Cell, StudyPlan
from medssl_monai.downstream.study_report import write_report
from medssl_monai.downstream.study_results import StudyResults, collect

__all__ = ["run_study"]


def run_study(plan: StudyPlan, out: Path) -> StudyResults:
    """Run what is missing of a study, and write its results.

    A cell that is done is not run again, so that a stopped study carries on, and one with another seed or encoder only
    adds to it. All cells take the same number of steps of the same batch size whatever the number of labels.

    Args:
        plan: from `read_plan`.
        out: folder for ``results.csv``, ``comparisons.csv``, ``study.json``, ``report.html``, ``figures/``, ``cells/``
            and, where the study makes them, ``data/`` and ``encoders/``.

    Returns:
        What the report shows.
    """
    out.mkdir(parents=True, exist_ok=True)
    with public_key(plan):
        inputs = prepare(plan, out)
        todo = [cell for cell in plan.cells if not cell_done(plan, inputs, cell, out)]
        _run(plan, inputs, todo, out)
    results = collect(plan, inputs, out)
    write_json(out / "study.json", results.record)
    write_report(results, out)
    return results


def _run(plan: StudyPlan, inputs: StudyInputs, cells: list[Cell], out: Path) -> None:
    bar: Any = tqdm(total=len(plan.cells), initial=len(plan.cells) - len(cells), desc="study", unit="cell")
    with bar:
        if plan.workers == 1:
            for cell in cells:
                bar.set_postfix_str(cell.folder)
                run_cell(plan, inputs, cell, out)
                bar.update()
            return
        threads = max(1, (os.cpu_count() or 1) // plan.workers)
        # Spawned, not forked: torch's threads do not survive a fork.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(plan.workers, mp_context=context) as pool:
            running = [pool.submit(run_cell, plan, inputs, cell, out, threads) for cell in cells]
            try:
                for future in as_completed(running):
                    future.result()
                    bar.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
