"""Figures of returns as SVG elements: the same bytes for the same data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from dime_robot.evaluation.statistics import iqm
from dime_robot.results.curves import MIN_SEEDS, Curves, FloatArray, spread
from dime_robot.results.html_page import inline_svg

OURS, THEIRS = "#0072B2", "#D55E00"
# colours of Okabe and Ito, which colour-blind readers can distinguish; with a marker each
STYLES = (
    *(("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#000000", "D")),
    *(("#CC79A7", "v"), ("#E69F00", "X"), ("#56B4E9", "P"), ("#666666", "*")),
)


def figure_of_returns(title: str, draw: Callable[[Axes], None]) -> str:
    """Make one plot of returns over steps."""

    def fill(figure: Figure) -> None:
        axes = figure.add_subplot()
        draw(axes)
        _over_steps(axes)
        axes.set_title(title, wrap=True)
        _legend(figure)

    return inline_svg(fill, (7, 4), title)


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=2, frameon=False)  # covers no line


def _over_steps(axes: Axes) -> None:
    axes.set(xlabel="environment steps", ylabel="return (unscaled)")
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(alpha=0.3)


def _seeds(curves: Curves) -> str:
    count = len(curves.seeds)
    return f"{count} seed{'s' * (count > 1)}"


def _dots(steps: Sequence[Any]) -> str | None:
    """Return the marker for a line of one point, which would be invisible without one."""
    return "o" if len(steps) == 1 else None


def task_figure(curves: Curves, reference: FloatArray) -> str:
    """Plot every seed, this project's IQM and, if known, the authors' results.

    Args:
        curves: of all seeds.
        reference: the authors' curve, shape (rows, columns of its file); no rows: unknown.
    """

    def draw(axes: Axes) -> None:
        few, alone = len(curves.seeds) < MIN_SEEDS, len(curves.seeds) == 1
        for number, (seed, curve) in enumerate(curves.seeds.items()):
            style: dict[str, Any] = {"alpha": 0.45, "linewidth": 1, "color": OURS}
            style["label"] = None if number else "each seed"
            if alone:
                style |= {"alpha": 1, "linewidth": 2, "label": f"seed {seed}"}
            axes.plot(list(curve), list(curve.values()), marker=_dots(list(curve)), **style)
        steps, returns = curves.steps, curves.returns
        if steps and not alone:
            what = "lowest to highest" if few else "95 % interval"
            label = f"IQM of {_seeds(curves)}, {what}"
            low, high = spread(returns)
            axes.plot(steps, iqm(returns), color=OURS, linewidth=2, marker=_dots(steps))
            axes.lines[-1].set_label(label)
            if len(steps) > 1:
                axes.fill_between(steps, low, high, color=OURS, alpha=0.15, linewidth=0)
            else:
                axes.vlines(steps, low, high, color=OURS)
        shown = reference[reference[:, 0] <= 1.05 * curves.longest]
        if len(shown) > 1:  # a line needs two points
            step, middle, _, low, high = shown.T
            axes.fill_between(step, low, high, color=THEIRS, alpha=0.12, linewidth=0)
            axes.plot(step, middle, color=THEIRS, marker="s", markersize=4, linestyle="--")
            axes.lines[-1].set_label("authors: IQM, lowest to highest")

    return figure_of_returns(curves.name, draw)


def ablation_figure(task: str, variants: Sequence[Curves]) -> str:
    """Plot the variants' IQM over steps, and next to it the mean over the run with its spread."""
    few = min(len(curves.seeds) for curves in variants) < MIN_SEEDS

    def fill(figure: Figure) -> None:
        figure.suptitle(f"{task}: IQM over seeds", wrap=True)
        lines, averages = figure.subplots(1, 2, width_ratios=(3, 2))
        for number, curves in enumerate(variants):
            color, marker = STYLES[number % len(STYLES)]
            label = f"{curves.name} ({_seeds(curves)})"
            style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 5}
            if not curves.steps:
                lines.plot([], [], label=f"{label}, no step in common", **style)
                continue
            lines.plot(curves.steps, iqm(curves.returns), label=label, **style)
            average, (low, high) = iqm(curves.averages), spread(curves.averages)
            averages.plot([low, high], [number, number], color=color)
            averages.plot([average], [number], **style)
        _over_steps(lines)
        averages.set_yticks(range(len(variants)), [curves.name for curves in variants])
        averages.set_ylim(len(variants) - 0.5, -0.5)
        what = "lowest to highest seed" if few else "95 % interval"
        averages.set(xlabel=f"mean return over the run,\n{what}")
        averages.grid(alpha=0.3, axis="x")
        _legend(figure)

    return inline_svg(fill, (9, 4.5), f"{task}: variants compared")
