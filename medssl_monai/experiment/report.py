"""A study's report, as an HTML file that needs nothing else and as Markdown tables: what was done, then the figures."""

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_text
from medssl_monai.errors import InputError
from medssl_monai.experiment.figure import draw_study
from medssl_monai.experiment.growth import growth_note, growth_table
from medssl_monai.experiment.judged import Contrast
from medssl_monai.experiment.plan import HEADS, METRICS
from medssl_monai.experiment.results import Point, StudyResults
from medssl_monai.page import html_page

CONTRADICTING = (
    "{} pictures stand in two classes. They are not learned from, and count only in the column 'official', which is on "
    "the whole test part."
)
FACTS = (
    "'File facts' is a random forest on size, format, colour mode and grey values of the files: what the labels give "
    "away without anatomy."
)
IN_TABLE = {
    "auc": "AUC",
    "f1_macro": "F1, mean over classes",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
}
STYLE = """
body { font-size: 16px; line-height: 1.5; color: #1a1a1a; background: #fff; max-width: 66rem; padding: 2rem 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
img { max-width: 100%; height: auto; }
div.table { overflow-x: auto; }
th, td { padding: 0.25rem 0.75rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
"""


def write_report(results: StudyResults, out: Path) -> None:
    """Write ``figures/study.png``, ``report.html`` and ``tables.md``."""
    picture = out / "figures" / "study.png"
    draw_study(results, picture)
    encoded = base64.b64encode(picture.read_bytes()).decode("ascii")
    metric = METRICS[results.plan.metric]
    parts = [
        f"<h1>{escape(results.plan.title)}</h1>",
        *(f"<p>{escape(sentence)}</p>" for sentence in statements(results)),
        f'<img alt="{escape(metric)} by share of labels, one line an encoder" src="data:image/png;base64,{encoded}">',
        f"<h2>{escape(metric.capitalize())}</h2>",
        _table(
            ("encoder", "head", "labels", "patients", "slices", "mean", "95% interval", "seeds"),
            _points(results),
        ),
    ]
    parts += [
        f"<h2>All figures, {escape(_labels_of(results))}</h2>",
        _table(*_all_figures(results)),
    ]
    if results.contrasts:
        parts += [
            f"<h2>Against {escape(_baseline(results))}</h2>",
            f"<p>Difference of balanced accuracy. {escape(_how(results.contrasts))} p is corrected over all "
            "rows (Holm). A difference that is not significant is not a proof that there is none.</p>",
            _table(
                ("encoder", "head", "labels", "difference", "p", "p (Holm)", "p (DeLong)"),
                _contrasts(results),
            ),
        ]
    parts += ["<h2>How many more labels?</h2>", f"<p>{escape(growth_note(results.growths, results.no_growths))}</p>"]
    parts += [_table(*growth_table(results.plan, results.growths))] * bool(results.growths)
    page = html_page(results.plan.title, "\n".join(parts), style=STYLE)
    write_text(out / "report.html", page)
    write_text(out / "tables.md", markdown_tables(results))


def statements(results: StudyResults) -> list[str]:
    """What a reader must know before the figures."""
    record = results.record
    patients = "an unknown number of" if record["test_patients"] is None else str(record["test_patients"])
    steps = ", ".join(str(s) for s in record["steps"] if s)
    trained = (
        f"Every fine-tuning took the same number of steps ({steps}), whatever the number of labels."
        if steps
        else "No encoder was fine-tuned: all heads are on frozen features."
    )
    drawn = (
        "Subsets are of whole patients, stratified, the smaller within the larger; each seed draws its own."
        if record["subset_unit"] == "patients"
        else "There are too few patients to draw subsets of (or they are unknown): subsets are of slices within "
        "patients. All patients are in every subset, so this is not a study of few labelled patients."
    )
    if record.get("folds"):
        drawn = (
            f"Cross-validation: each seed is one of {record['folds']} stratified folds, tested on once; further seeds "
            "are folds of further draws. Pictures that look alike are in one fold. " + drawn
        )
    wrong = record.get("contradicting", 0)
    other = record.get("cells_of_other_code", 0)
    sources = "; ".join(f"{name}: {source}" for name, source in record["encoders"].items())
    return [
        f"Classes: {', '.join(record['classes'])}. Tested on {record['test_slices']} slices of {patients} patients, "
        f"the same for all{', each in one fold of a draw' if record.get('folds') else ''}. {trained}",
        drawn,
        f"Encoders: {sources}. Those that the study pre-trains saw {_seen(record.get('overlap'))}.",
        *[CONTRADICTING.format(wrong)] * bool(wrong),
        *[FACTS] * results.plan.file_facts,
        f"Intervals: {results.interval_note}. They say how much the figures depend on who was tested; how much they "
        "depend on the training shows between the seeds.",
        *([f"{other} trainings were made by other code or libraries than this report."] if other else []),
    ]


def _seen(overlap: int | None) -> str:
    if overlap is None:
        return "only the training images of the task, and no labels"
    found = f"{overlap} of them" if overlap else "none of them"
    return f"no labels; the audit compared test images and test patients with them, and found {found} there"


def _points(results: StudyResults) -> list[list[str]]:
    return [
        [
            results.plan.row_name(p.head, p.encoder),
            HEADS[p.head],
            f"{p.fraction:.0%}",
            "–" if p.train_patients is None else f"{p.train_patients:g}",
            f"{p.train_slices:.0f}",
            _figure(p.mean),
            "–" if p.low is None else f"{_figure(p.low)} to {_figure(p.high)}",
            f"{_figure(p.lowest)} to {_figure(p.highest)} ({p.seeds})",
        ]
        for p in results.points
    ]


def _contrasts(results: StudyResults) -> list[list[str]]:
    return [
        [
            results.plan.row_name(c.head, c.encoder),
            HEADS[c.head],
            f"{c.fraction:.0%}",
            f"{c.difference:+.3f}",
            _p(c.p),
            _p(c.p_holm),
            _p(c.p_delong),
        ]
        for c in results.contrasts
    ]


def _how(contrasts: Sequence[Contrast]) -> str:
    """How p was found, or why not: a sentence for all rows that say the same."""
    notes = list(dict.fromkeys(c.note for c in contrasts))
    return " ".join(f"{note[0].upper()}{note[1:]}." for note in notes)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(c)}</th>" for c in columns)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(str(v))}</td>" for v in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def markdown_tables(results: StudyResults) -> str:
    """One table per head, one row per encoder, one column per share of the labels; then the smallest p values.

    Each cell is the mean over seeds, with the interval over patients or, where there is none, the range over seeds.
    """
    plan = results.plan
    metric = METRICS[plan.metric]
    range_of = "" if results.has_intervals else "lowest to highest seed; no interval: "
    seeds = "one seed" if len(plan.seeds) == 1 else f"mean of {len(plan.seeds)} seeds"
    text = [f"{metric[0].upper()}{metric[1:]}, {seeds}; in brackets {range_of}{results.interval_note}."]
    for head in plan.shown_heads:
        mine = [point for point in results.points if point.head == head]
        shares = [_share(next(p for p in mine if p.fraction == f)) for f in plan.fractions]
        text += ["", f"{HEADS[head][0].upper()}{HEADS[head][1:]}:", "", f"| encoder | {' | '.join(shares)} |"]
        text.append("|---|" + "---|" * len(shares))
        for encoder in dict.fromkeys(point.encoder for point in mine):
            cells = [_cell(p) for p in mine if p.encoder == encoder]
            text.append(f"| {_plain(plan.row_name(head, encoder))} | {' | '.join(cells)} |")
    columns, rows = _all_figures(results)
    text += ["", f"All figures, {_labels_of(results)}:", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    text += [f"| {' | '.join(map(_plain, row))} |" for row in rows]
    if results.growths and plan.wanted is not None:
        columns, rows = growth_table(plan, results.growths)
        text += ["", growth_note(results.growths), "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        text += [f"| {' | '.join(map(_plain, row))} |" for row in rows]
    return "\n".join([*text, *_smallest_p(results)]) + "\n"


def _labels_of(results: StudyResults) -> str:
    """What the table of all figures is of."""
    metric = METRICS[results.plan.metric]
    notes = [f"'official' is the {metric} on the whole test part"] if _any(results, "official") else []
    notes += ["'moves' is how far it moves between neighbouring epochs"] if _any(results, "moves") else []
    return f"{results.plan.fractions[-1]:.0%} of the labels" + "".join(f"; {note}" for note in notes)


def _any(results: StudyResults, name: str) -> bool:
    return any(getattr(point, name) is not None for point in results.points)


def _all_figures(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """Columns, and every figure with the largest share of the labels, then what others have published."""
    beside = [name for name in ("official", "moves") if _any(results, name)]
    rows = []
    for point in results.points:
        if point.fraction == results.plan.fractions[-1]:
            figures = [_with_interval(*point.figures.get(name, (None, None, None))) for name in IN_TABLE]
            name = results.plan.row_name(point.head, point.encoder)
            rows.append([name, HEADS[point.head], *figures, *(_figure(getattr(point, one)) for one in beside)])
    for one in results.plan.published:
        figures = [f"{one[name]:g}" if name in one else "–" for name in IN_TABLE]
        rows.append([str(one["name"]), str(one.get("note", "as published")), *figures, *["–"] * len(beside)])
    return ["encoder", "head", *IN_TABLE.values(), *beside], rows


def _with_interval(mean: float | None, low: float | None, high: float | None) -> str:
    return _figure(mean) + ("" if low is None or high is None else f" ({low:.3f}–{high:.3f})")


def _plain(cell: str) -> str:
    """Text that does not end a cell of a Markdown table."""
    return cell.replace("|", "\\|")


def _share(point: Point) -> str:
    patients = "" if point.train_patients is None else f"{point.train_patients:g} patients, "
    return f"{point.fraction:.0%}: {patients}{point.train_slices:g} slices"


def _cell(point: Point) -> str:
    if point.mean is None:
        return "–"
    ends = (point.lowest, point.highest) if point.low is None else (point.low, point.high)
    return f"{point.mean:.3f} ({ends[0]:.3f}–{ends[1]:.3f})"


def _smallest_p(results: StudyResults) -> list[str]:
    tested = sorted((c for c in results.contrasts if c.p is not None), key=lambda c: (c.p, c.encoder))
    if not tested:
        return []
    significant = sum((c.p_holm or 0) < 0.05 for c in tested)
    rows = [
        f"| {_plain(c.encoder)} | {HEADS[c.head]} | {c.fraction:.0%} | {c.difference:+.3f} | {c.p:.4f} | "
        f"{c.p_holm:.3f} |"
        for c in tested[:5]
    ]
    return [
        "",
        f"Against {_baseline(results)}, balanced accuracy: {significant} of {len(tested)} comparisons have p < 0.05 "
        f"after Holm's correction. The {len(rows)} with the smallest p ({tested[0].note}):",
        "",
        "| encoder | head | labels | difference | p | p (Holm) |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _baseline(results: StudyResults) -> str:
    """The baseline as the tables call it: a frozen encoder that was never trained is random features."""
    plan = results.plan
    return " and ".join(dict.fromkeys(plan.row_name(c.head, plan.baseline) for c in results.contrasts))


def replace_tables(page: Path, name: str, tables: str) -> None:
    """Put tables between ``<!-- NAME -->`` and ``<!-- end NAME -->`` of a Markdown page.

    Raises:
        InputError: the page is missing, or does not have these two lines once each, in this order.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise InputError(f"{page}: needs the lines {begin} and {end} once, to put the tables between; add them")
    write_text(page, pattern.sub(lambda _: f"{begin}\n{tables}{end}", text))
