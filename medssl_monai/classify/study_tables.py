"""A study's figures as Markdown, and their place in a page: what docs/results.md shows is written by the study."""

import re
from pathlib import Path

from medssl_monai.atomic import write_text
from medssl_monai.errors import InputError
from medssl_monai.study.plan import HEADS, METRICS
from medssl_monai.study.results import Contrast, Point, StudyResults

__all__ = ["markdown_tables", "replace_tables"]


def markdown_tables(results: StudyResults) -> str:
    """A table a head: an encoder a row, a share of the labels a column; then the rows with the smallest p.

    Each cell is the mean over seeds, with the interval over patients or, where there is none, the range over seeds.
    """
    plan = results.plan
    metric = METRICS[plan.metric]
    known = any(point.low is not None for point in results.points)
    note = f"{results.interval_note}" if known else "lowest to highest seed; no interval: " + results.interval_note
    seeds = "one seed" if len(plan.seeds) == 1 else f"mean of {len(plan.seeds)} seeds"
    text = [f"{metric[0].upper()}{metric[1:]}, {seeds}; in brackets {note}."]
    for head in plan.heads:
        mine = [point for point in results.points if point.head == head]
        shares = [_share(next(p for p in mine if p.fraction == f)) for f in plan.fractions]
        text += ["", f"{HEADS[head][0].upper()}{HEADS[head][1:]}:", "", f"| encoder | {' | '.join(shares)} |"]
        text.append("|---|" + "---|" * len(shares))
        for encoder in plan.encoders:
            cells = [_cell(p) for p in mine if p.encoder == encoder]
            text.append(f"| {encoder} | {' | '.join(cells)} |")
    return "\n".join([*text, *_contrasts(results.contrasts, plan.baseline)]) + "\n"


def _share(point: Point) -> str:
    patients = "" if point.train_patients is None else f"{point.train_patients:g} patients, "
    return f"{point.fraction:.0%}: {patients}{point.train_slices:g} slices"


def _cell(point: Point) -> str:
    if point.mean is None:
        return "–"
    ends = (point.lowest, point.highest) if point.low is None else (point.low, point.high)
    return f"{point.mean:.3f} ({ends[0]:.3f}–{ends[1]:.3f})"


def _contrasts(contrasts: list[Contrast], baseline: str) -> list[str]:
    tested = sorted((c for c in contrasts if c.p is not None), key=lambda c: (c.p, c.encoder))
    if not tested:
        return []
    significant = sum((c.p_holm or 0) < 0.05 for c in tested)
    rows = [
        f"| {c.encoder} | {HEADS[c.head]} | {c.fraction:.0%} | {c.difference:+.3f} | {c.p:.4f} | {c.p_holm:.3f} |"
        for c in tested[:5]
    ]
    return [
        "",
        f"Against {baseline}, balanced accuracy: {significant} of {len(tested)} comparisons have p < 0.05 after Holm's "
        f"correction. The {len(rows)} with the smallest p ({tested[0].note}):",
        "",
        "| encoder | head | labels | difference | p | p (Holm) |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


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
