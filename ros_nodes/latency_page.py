"""A recorded run as one page: `python -m ros_nodes.latency_page latency.npz`.

Writes `latency.html` into the record's folder. The page is self-contained and opens offline.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(train=("matplotlib",))

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dime_robot.results.html_page import html_page, html_table, inline_svg
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.telemetry.latency import TIMES
from ros_nodes.latency_record import (
    PERCENTILES,
    PHASE_COLUMNS,
    LatencyRecord,
    Samples,
    read_record,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEANING = {
    "age_by_stamp": "age of the observation when the command was published, by its stamp",
    "age_by_receipt": "the same age, counted from its arrival at the node",
    "inference": "the policy alone",
    "end_to_end": "from receiving the observation to having published the command",
    "period": "from one command to the next",
}
BARS = 72  # of a histogram
MAX_TIME_BINS = 330
STEPS_PER_BIN = 3.0
MAX_SECONDS = 180.0  # a longer run is drawn over minutes
MAX_FAULTS = 60  # marked and listed; the others are counted
MAX_PHASES = 60  # the same
LOG_RATIO = 25.0  # largest over smallest value from which an axis is logarithmic
LABEL_WIDTH = 0.02  # of a number or an upright text, as a share of the time axis
MAX_LABEL = 24  # characters
BLUE, LIGHT_BLUE, RED, GREY = "#2b6a9b", "#7fa6c9", "#c0392b", "#5c6b7a"
_STYLE = """
body { max-width: 62rem }
.numbers td:nth-child(n+2), .numbers th:nth-child(n+2) { text-align: right }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 0 2rem;
  align-items: end }
figure { break-inside: avoid } figcaption { margin-bottom: .4rem }
@media print { body { margin: 0; max-width: none; font-size: 11pt } }
"""


def histogram(values: Samples, name: str) -> str:
    """Draw a histogram of the values, as an SVG element.

    Args:
        values: finite values [s], at least one. Shape (n,).
        name: of the quantity.
    """
    milliseconds = 1e3 * values
    low, high = float(milliseconds.min()), float(milliseconds.max())
    if high - low <= 1e-9 * abs(high):  # too close together for bars between them
        margin = 0.05 * abs(high) or 0.05
        low, high = low - margin, high + margin
    logarithmic = low > 0 and high > LOG_RATIO * low
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, BARS + 1)
    edges[0], edges[-1] = low, high  # geomspace may round them inwards
    counts, _ = np.histogram(milliseconds, edges)
    median, p99 = np.percentile(milliseconds, (50, 99))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.stairs(counts, edges, fill=True, color=LIGHT_BLUE, baseline=0.5)
        axes.axvline(median, color="black", linestyle="--", label=f"median {median:.3g} ms")
        axes.axvline(p99, color="black", linestyle=":", label=f"p99 {p99:.3g} ms")
        # logarithmic, so that rare late steps are visible
        axes.set(yscale="log", ylim=(0.6, max(10.0, 2.0 * counts.max())))
        axes.set(xlabel=f"{name} [ms]", ylabel="steps")
        _finish(axes, "x" if logarithmic else "")

    return inline_svg(draw, (5.0, 2.6), f"distribution of {name}")


def _finish(axes: Axes, logarithmic: str = "") -> None:
    """Make an axis logarithmic, show plain numbers on it, and put the legend above the plot."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if logarithmic:
        axis = axes.xaxis if logarithmic == "x" else axes.yaxis
        axes.set(**{f"{logarithmic}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderpad=0)


class _TimeAxis(NamedTuple):
    """Time as the page shows it, from the first sample or fault on."""

    first: float  # on the clock of the samples [s]
    span: float  # [s]
    unit: str
    divisor: float  # [s] in one unit

    def shown(self, time: Samples | float) -> Samples:
        """Convert times on the clock of the samples [s] to the unit that is shown."""
        return np.asarray((time - self.first) / self.divisor)


def _time_axis(record: LatencyRecord) -> _TimeAxis:
    faults = [fault.time for fault in record.header.faults]
    phases = [phase.time for phase in record.header.phases]
    times = np.array([*record.time_range, *faults, *phases] or [0.0])
    span = max(float(np.ptp(times)), 1e-3)
    unit, divisor = ("min", 60.0) if span > MAX_SECONDS else ("s", 1.0)
    return _TimeAxis(float(times.min()), span, unit, divisor)


def time_line(record: LatencyRecord) -> str:
    """Draw the largest end-to-end latency over time, missed deadlines and faults, as HTML."""
    times, milliseconds = record.column("time"), 1e3 * record.column("end_to_end")
    usable = np.isfinite(times) & np.isfinite(milliseconds)
    if not usable.any():
        return ""
    time, rate = _time_axis(record), record.header.rate
    # a bin shorter than a few periods would show gaps where there are none
    bins = int(np.clip(time.span * rate / STEPS_PER_BIN, 1, MAX_TIME_BINS))
    edges = np.linspace(0.0, time.span / time.divisor, bins + 1)
    places = np.minimum((times[usable] - time.first) / time.span * bins, bins - 1).astype(int)
    largest = np.full(bins, np.nan)  # without a step the curve has a gap
    np.fmax.at(largest, places, milliseconds[usable])
    missed = np.unique(places[record.missed[usable]])
    names, _ = record.phases

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.stairs(largest, edges, baseline=None, color=BLUE, label="largest in each interval")
        if rate:
            period = 1e3 / rate
            text = f"deadline: one period, {period:.4g} ms"
            axes.axhline(period, color="black", linestyle="--", label=text)
        low, high = np.nanmin(largest), max(axes.get_ylim()[1], np.nanmax(largest))
        logarithmic = low > 0 and high > LOG_RATIO * low
        _draw_faults(axes, record, time)
        if names:
            _draw_phases(axes, record, time)
        if len(missed):
            bottom = axes.get_xaxis_transform()  # y from 0, the bottom of the plot, to 1, its top
            middles, heights = (edges[missed] + edges[missed + 1]) / 2, np.full(len(missed), 0.03)
            style: dict[str, Any] = {"color": RED, "markersize": 10, "transform": bottom}
            axes.plot(middles, heights, "|", label="missed deadlines", **style)
        axes.set(xlim=(edges[0], edges[-1]), xlabel=f"time since the first entry [{time.unit}]")
        axes.set(ylabel="end_to_end [ms]")
        if not logarithmic:
            axes.set_ylim(bottom=0.0)
        _finish(axes, "y" if logarithmic else "")

    marks = "Numbered lines are the faults of the table."
    if names:
        marks += " Dotted lines begin a phase."
        if len(record.header.phases) > MAX_PHASES:
            marks += f" Only the first {MAX_PHASES} are shown."
    return (
        f"<figure>{inline_svg(draw, (10.0, 3.2), 'end-to-end latency over time')}</figure>"
        f'<p class="soft">The curve is the largest value in each {time.span / bins:.3g} s. {marks}'
        "</p>"
    )


def _draw_faults(axes: Axes, record: LatencyRecord, time: _TimeAxis) -> None:
    """Draw a line for each fault, with its number if there is space."""
    top, free = axes.get_xaxis_transform(), -np.inf
    for number, fault in enumerate(record.header.faults[:MAX_FAULTS], 1):
        when = float(time.shown(fault.time))
        axes.axvline(when, color=RED, linewidth=0.8, label="faults" if number == 1 else None)
        if when >= free:
            axes.text(when, 0.98, f" {number}", color=RED, va="top", transform=top)
            free = when + LABEL_WIDTH * time.span / time.divisor


def _draw_phases(axes: Axes, record: LatencyRecord, time: _TimeAxis) -> None:
    """Draw a line where each phase begins, with its name if there is space until the next."""
    phases, top = record.header.phases, axes.get_xaxis_transform()
    ends = [*(phase.time for phase in phases[1:]), np.inf]
    style: dict[str, Any] = {"rotation": "vertical", "va": "top", "fontsize": 8}
    for phase, end in zip(phases[:MAX_PHASES], ends, strict=False):
        when = float(time.shown(phase.time))
        axes.axvline(when, color=GREY, linewidth=0.8, linestyle=":")
        if end - phase.time >= LABEL_WIDTH * time.span:
            text = f"{phase.text:.{MAX_LABEL}}"
            axes.text(when, 0.88, text, color=GREY, transform=top, parse_math=False, **style)


def _phase_table(record: LatencyRecord) -> str:
    rows = record.phase_rows()
    if not rows:
        return ""
    table = html_table(rows[:MAX_PHASES], PHASE_COLUMNS, "numbers")
    more = len(rows) - MAX_PHASES
    return f"<h2>Phases</h2>{table}" + (f"<p>And {more} more.</p>" if more > 0 else "")


def _fault_table(record: LatencyRecord) -> str:
    faults = record.header.faults
    if not faults:
        return "<p>No fault on /diagnostics.</p>"
    time = _time_axis(record)
    rows = [
        (number, f"{time.shown(fault.time):.3f}", fault.text)
        for number, fault in enumerate(faults[:MAX_FAULTS], 1)
    ]
    more = len(faults) - len(rows)
    table = html_table(rows, ("fault", f"time [{time.unit}]", "on /diagnostics"))
    return table + (f"<p>And {more} more.</p>" if more else "")


def page(record: LatencyRecord) -> str:
    """Return the whole HTML file."""
    title, summary = f"Latency of {record.header.policy}", record.summary()
    rows = [
        (name, *(f"{1e3 * summary[name][column]:.3f}" for column in PERCENTILES))
        for name in TIMES
        if name in summary
    ]
    figures = [
        f"<figure><figcaption><b>{name}</b>: {MEANING[name]}</figcaption>"
        f"{histogram(record.acting(name), name)}</figure>"
        for name in summary
    ]
    body = (
        f"<h1>{html.escape(title)}</h1>{html_table(record.about())}"
        f"<h2>Percentiles [ms]</h2>{html_table(rows, ('', *PERCENTILES), 'numbers')}"
        f"{_phase_table(record)}<h2>The run</h2>{time_line(record)}{_fault_table(record)}"
        f'<h2>Distributions</h2><div class="grid">{"".join(figures)}</div>'
    )
    return html_page(title, body, _STYLE)


def write_page(record: LatencyRecord, path: Path) -> Path:
    """Write the page.

    Raises:
        InputError: it cannot be written.
    """
    write_atomically(path, page(record).encode())
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m ros_nodes.latency_page", "A recorded run as one HTML page.")
    text = "a latency.npz that latency_monitor wrote; the page is written beside it, as .html"
    parser.add_argument("record", type=Path, help=text)
    path: Path = parser.parse_args(argv).record
    record = read_record(path)
    page_file = path.with_suffix(".html")
    if page_file.exists() and page_file.samefile(path):
        raise InputError(
            f"{path}: expected a record whose page is another file, got one that its page would"
            " overwrite: rename it to end in .npz"
        )
    print(write_page(record, page_file))
    return 0


if __name__ == "__main__":
    run_command(main)
