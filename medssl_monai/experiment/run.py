"""The paper's experiment: how good a classifier is, by encoder and by how many labels it was given."""

import logging
from pathlib import Path

from medssl_monai.atomic import write_json
from medssl_monai.experiment.cells import cell_done, cell_made_by, make_room, maker
from medssl_monai.experiment.encoders import REMEDY
from medssl_monai.experiment.inputs import prepare
from medssl_monai.experiment.plan import StudyPlan, read_plan
from medssl_monai.experiment.report import write_report
from medssl_monai.experiment.results import StudyResults, collect
from medssl_monai.experiment.workers import run_cells
from medssl_monai.runs.settings import check_folder, place_given

logger = logging.getLogger(__name__)


def study(
    plan: StudyPlan | str | Path, out: str | Path, *, scheduler: str | None = None, rerun: bool = False
) -> StudyResults:
    """Run the missing cells of a study, and write its results.

    Finished cells are not run again: a stopped study continues, and a further seed or encoder only adds cells. Changed
    settings, labels, images or weights make a cell a different one. Changed code or libraries do not: each cell notes
    them, and the log and the report count the cells that other code made. When a cell is run again, its earlier folder
    moves to ``set_aside/``: no training is deleted. All cells take the same number of steps of the same batch size,
    whatever the number of labels.

    Args:
        plan: a YAML file, or the name of one in ``configs/`` such as ``study_demo``; or what `read_plan` made of one,
            with other data or encoders.
        out: folder for ``results.csv``, ``figures.csv``, ``comparisons.csv``, ``study.json``, ``tables.md``,
            ``report.html``, ``figures/``, ``cells/`` and, where the study makes them, ``data/`` and ``encoders/``.
        scheduler: address of a Dask scheduler; its workers train instead of this machine's processes.
        rerun: run again what other code or libraries made.

    Returns:
        What the report shows.

    Raises:
        ConfigError: ``out`` is a file; or see `read_plan` and `prepare`.

    Example:
        >>> results = study("study_demo", "studies/demo")  # doctest: +SKIP
        >>> [(point.encoder, point.fraction, point.mean) for point in results.points]  # doctest: +SKIP
    """
    check_folder(place_given(out, "out"), "--out")
    plan = plan if isinstance(plan, StudyPlan) else read_plan(place_given(plan, "plan"))
    out = Path(out).absolute()
    out.mkdir(parents=True, exist_ok=True)
    inputs = prepare(plan, out, rerun=rerun)
    done = [cell for cell in plan.cells if cell_done(plan, inputs, cell, out)]
    now = maker(inputs)
    other = [cell for cell in done if cell_made_by(cell, out) != now]
    if other and not rerun:
        logger.warning(
            "%d of %d trainings were made by other code or libraries and are kept; %s",
            len(other),
            len(plan.cells),
            REMEDY,
        )
    kept = set(done) - set(other if rerun else ())
    missing = [cell for cell in plan.cells if cell not in kept]
    for cell in missing:
        make_room(plan, inputs, cell, out)
    run_cells(plan, inputs, missing, out, scheduler)
    results = collect(plan, inputs, out)
    write_json(out / "study.json", results.record)
    write_report(results, out)
    return results
