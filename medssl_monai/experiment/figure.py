"""A study's figure: the metric by the share of labels."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from medssl_monai.drawing import picture_text, save_figure
from medssl_monai.experiment.plan import FILE_FACTS, HEADS, METRICS
from medssl_monai.experiment.results import Point, StudyResults

# Okabe and Ito's colours, which colour-blind readers can distinguish; markers distinguish the lines in print.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vPX"
MOST_BANDS = 3  # more of them hide one another


def draw_study(results: StudyResults, path: Path) -> None:
    """Draw the metric against the share of labels: one panel per head, one line per encoder.

    Intervals are bands. Of more than `MOST_BANDS` encoders they are bars, side by side.

    Args:
        results: from `collect`.
        path: PNG to write.
    """
    plan = results.plan
    figure = Figure(figsize=(2.2 + 4.2 * len(plan.heads), 5.2), layout="constrained")
    as_bands = len(plan.encoders) <= MOST_BANDS
    # Bars stand side by side: all encoders of a share take a tenth of the panel at most.
    whole = max(2.0, max(plan.fractions) / min(plan.fractions))  # a single share has a panel, too
    middle = (len(plan.encoders) - 1) / 2
    beside = 1.0 if as_bands else whole ** min(0.015, 0.1 / len(plan.encoders))
    panels = figure.subplots(1, len(plan.heads), sharey=True, squeeze=False)[0]
    for axes, head in zip(panels, plan.heads, strict=True):
        for i, encoder in enumerate(plan.encoders):
            points = [p for p in results.points if (p.head, p.encoder) == (head, encoder) and p.mean is not None]
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            shares = [100 * p.fraction * beside ** (i - middle) for p in points]
            name = plan.row_name(head, encoder)
            # In a frozen panel scratch is something else than beside it: the same colour, drawn another way.
            style: dict[str, str] = {} if name == encoder else {"linestyle": "--", "markerfacecolor": "white"}
            axes.plot(
                shares,
                [p.mean for p in points],
                color=colour,
                marker=marker,
                markersize=5,
                label=picture_text(name),
                **style,
            )
            intervals = [_interval(p) for p in points]
            lows, highs = [low for low, _ in intervals], [high for _, high in intervals]
            if as_bands:
                axes.fill_between(shares, lows, highs, color=colour, alpha=0.09, linewidth=0)
                for edge in (lows, highs):
                    axes.plot(shares, edge, color=colour, alpha=0.5, linewidth=0.7)
            else:
                axes.vlines(shares, lows, highs, color=colour, alpha=0.6, linewidth=1.2)
        facts = [p for p in results.points if p.head == "facts" and p.mean is not None]
        if facts:
            shares = [100 * p.fraction for p in facts]
            axes.plot(shares, [p.mean for p in facts], color="grey", linestyle=":", label=FILE_FACTS)
        axes.set_xscale("log")
        slices = {p.fraction: p.train_slices for p in results.points}
        axes.set_xticks([100 * f for f in plan.fractions], [f"{100 * f:g} %\n{slices[f]:.0f}" for f in plan.fractions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(f"labelled slices (above: share of the training {results.record['subset_unit']})")
        axes.set_title(HEADS[head], fontsize=11)
        axes.grid(alpha=0.3)
        if plan.metric in {"balanced_accuracy", "auc"}:
            several = plan.settings.get("task") == "multilabel"
            chance = 0.5 if plan.metric == "auc" or several else 1 / len(results.classes)
            axes.axhline(chance, color="grey", linewidth=0.8, linestyle="--", label="chance")
    panels[0].set_ylabel(METRICS[plan.metric] + " on the test slices")
    panels[0].set_ylim(top=1.02)
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=9)
    drawn_as = "bands" if as_bands else "bars"
    meaning = "95% interval over test patients" if results.has_intervals else "lowest to highest seed (no interval)"
    figure.suptitle(f"{picture_text(plan.title, 100)}\n{drawn_as}: {meaning}", fontsize=11)
    save_figure(figure, path, dpi=130)


def _interval(point: Point) -> tuple[float, float]:
    mean = point.mean if point.mean is not None else float("nan")
    low = point.low if point.low is not None else point.lowest
    high = point.high if point.high is not None else point.highest
    return (mean if low is None else low, mean if high is None else high)
