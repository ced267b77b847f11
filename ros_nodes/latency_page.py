"""A recorded run as one page: `python -m ros_nodes.latency_page latency.npz`.

Writes `latency.html` beside the record. The page holds everything it shows and opens offline.
"""

from __future__ import annotations

import argparse
import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.telemetry.latency import TIMES
from ros_nodes.latency_record import (
    PERCENTILES,
    LatencyRecord,
    Samples,
    longest_row,
    read_record,
)

MEANING = {
    "age_by_stamp": "age of the observation when the command was published, by its stamp",
    "age_by_receipt": "the same age, counted from its arrival at the node",
    "inference": "the policy alone",
    "end_to_end": "from receiving the observation to having published the command",
    "period": "from one command to the next",
}
BARS = 72
TIME_BINS = 330
STEPS_PER_BIN = 3.0
LONGEST_IN_SECONDS = 180.0  # a longer run is drawn over minutes
MOST_FAULTS = 60  # marked and listed; the rest is counted
LOG_FROM = 25.0  # largest over smallest value from which an axis is logarithmic
LABEL_WIDTH = 14.0  # pixels of a fault's number

_STYLE = """
:root { color-scheme: light; --ink: #1c2733; --soft: #5c6b7a; --line: #d8dee5;
  --bar: #7fa6c9; --curve: #2b6a9b; --bad: #c0392b }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem }
p, figcaption { color: var(--soft); margin: .2rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { border-bottom: 1px solid var(--line); padding: .25rem 1.3rem .25rem 0; text-align: left;
  font-weight: normal; vertical-align: top }
th { color: var(--soft) } .numbers td:nth-child(n+2), .numbers th:nth-child(n+2) {
  text-align: right } td.soft { color: var(--soft) }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1rem 2rem }
figure { margin: 0 0 1rem; break-inside: avoid } figcaption b { color: var(--ink) }
svg { width: 100%; height: auto; display: block }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); paint-order: stroke;
  stroke: #fff; stroke-width: 3px }
svg .axis { stroke: var(--soft); fill: none } svg .grid-line { stroke: var(--line); fill: none }
svg .bar { fill: var(--bar) } svg .curve { stroke: var(--curve); fill: none; stroke-width: 1.2 }
svg .mark { stroke: var(--ink); stroke-dasharray: 4 3; fill: none }
svg .bad { stroke: var(--bad); fill: none } svg text.bad { fill: var(--bad); stroke: #fff }
@media print { body { margin: 0; max-width: none; font-size: 11pt } }
"""


@dataclass(frozen=True)
class _Axis:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def at(self, values: Samples | float) -> Samples:
        """Where values are drawn [pixels]."""
        low, high, values = self.low, self.high, np.asarray(values, dtype=np.float64)
        if self.logarithmic:
            low, high, values = math.log(low), math.log(high), np.log(np.maximum(values, low))
        return np.asarray(self.start + (values - low) / (high - low) * (self.end - self.start))

    def ticks(self, most: int = 6) -> list[float]:
        """Round values for labels, a few."""
        if self.logarithmic:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for steps in ((1, 2, 5), (1,)):
                found = [step * 10.0**decade for decade in decades for step in steps]
                found = [value for value in found if self.low <= value <= self.high]
                if len(found) <= 2 * most:
                    break
            return found
        span = self.high - self.low
        unit = 10 ** math.floor(math.log10(span / most))
        step = next(unit * k for k in (1, 2, 5, 10) if span / (unit * k) <= most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{step * k:.10g}") for k in range(first, last + 1)]


def _axis(low: float, high: float, start: float, end: float) -> _Axis:
    """An axis from `low` to `high`, logarithmic where the values span too much for a linear one."""
    if low > 0 and high > LOG_FROM * low:
        return _Axis(low, high, start, end, logarithmic=True)
    if high <= low:  # one value only: it stands in the middle
        spread = 0.05 * abs(low) or 0.05
        low, high = low - spread, high + spread
    return _Axis(low, high, start, end)


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{name}>'
        f"{html.escape(text, quote=False)}</text>"
    )


def _path(kind: str, steps: Iterable[str]) -> str:
    return f'<path class="{kind}" d="{"".join(steps)}"/>'


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(x: _Axis, y: _Axis, x_label: str, y_label: str) -> list[str]:
    """Grid, axes, ticks and what they count. `y.start` is the bottom."""
    parts = []
    for value in y.ticks(4):
        height = float(y.at(value))
        parts.append(_path("grid-line", [f"M{x.start:.0f} {height:.1f}H{x.end:.0f}"]))
        parts.append(_text(x.start - 6, height + 4, f"{value:g}", "end"))
    parts.append(_path("axis", [f"M{x.start:.0f} {y.start:.0f}H{x.end:.0f}"]))
    for value in x.ticks(7):
        parts.append(_path("axis", [f"M{float(x.at(value)):.1f} {y.start:.0f}v4"]))
        parts.append(_text(float(x.at(value)), y.start + 16, f"{value:g}"))
    parts.append(_text((x.start + x.end) / 2, y.start + 32, x_label))
    parts.append(_text(4, 12, y_label, "start"))
    return parts


def histogram(values: Samples, name: str) -> str:
    """How often which value came, as an SVG element.

    Args:
        values: finite values [s], at least one. Shape (n,).
        name: of the quantity.
    """
    milliseconds = 1e3 * values
    x = _axis(float(milliseconds.min()), float(milliseconds.max()), 52, 468)
    spaced = np.geomspace if x.logarithmic else np.linspace
    edges = spaced(x.low, x.high, BARS + 1)
    edges[0], edges[-1] = x.low, x.high  # geomspace may round them inwards
    counts, _ = np.histogram(milliseconds, edges)
    # logarithmic, or the rare late step that all this is about could not be seen
    y = _Axis(0.6, max(10.0, float(counts.max()) * 1.5), 158, 30, logarithmic=True)
    left, right, top = x.at(edges[:-1]), x.at(edges[1:]), y.at(np.maximum(counts, 1))
    bars = [
        f"M{left[i]:.1f} {y.start:.0f}V{top[i]:.1f}H{right[i]:.1f}V{y.start:.0f}Z"
        for i in np.flatnonzero(counts)
    ]
    middle, late = np.percentile(milliseconds, (50, 99))
    parts = [*_frame(x, y, f"{name} [ms]", "steps"), _path("bar", bars)]
    for value, text, anchor, shift in (
        (float(middle), "median", "end", -4),
        (float(late), "p99", "start", 4),
    ):
        position = float(x.at(value))
        if anchor == "end" and position < 170:  # the label of the axis is there
            anchor, shift = "start", 4
        if anchor == "start" and position > 400:
            anchor, shift = "end", -4
        row = 12 if text == "median" else 25
        parts.append(_path("mark", [f"M{position:.1f} {row - 8}V{y.start:.0f}"]))
        parts.append(_text(position + shift, row, f"{text} {value:.3g} ms", anchor))
    return _svg(480, 196, f"distribution of {name}", parts)


def _shown_times(record: LatencyRecord) -> tuple[float, float, str, float]:
    """When samples and faults begin [s], how long they last [s], the unit to show, in seconds."""
    times = record.finite("time")
    ends = [float(times.min()), float(times.max())] if len(times) else []
    ends += [fault.time for fault in record.facts.faults] or [0.0] * (not ends)
    span = max(max(ends) - min(ends), 1e-3)
    unit, divisor = ("min", 60.0) if span > LONGEST_IN_SECONDS else ("s", 1.0)
    return min(ends), span, unit, divisor


def time_line(record: LatencyRecord) -> str:
    """The largest end to end latency over time, missed deadlines and faults, as HTML with SVG."""
    times, values = record.column("time"), 1e3 * record.column("end_to_end")
    usable = np.isfinite(times) & np.isfinite(values)
    times, values, missed = times[usable], values[usable], record.missed[usable]
    if not len(times):
        return ""
    faults = record.facts.faults[:MOST_FAULTS]
    first, span, unit, divisor = _shown_times(record)
    x = _Axis(0.0, span / divisor, 52, 960)
    # a bin shorter than a few periods would have holes that are none
    count = int(np.clip(span * record.facts.rate / STEPS_PER_BIN, 1, TIME_BINS))
    bins = np.minimum((times - first) / span * count, count - 1).astype(int)
    largest = np.full(count, -np.inf)
    np.maximum.at(largest, bins, values)
    filled = np.flatnonzero(np.isfinite(largest))
    period = 1e3 / record.facts.rate if record.facts.rate else float(values.max())
    low, high = float(largest[filled].min()), max(float(values.max()), period)
    if low <= 0 or high <= LOG_FROM * low:
        low = 0.0  # a linear scale of durations begins at nothing
    y = _axis(low, 1.05 * high, 200, 40)
    width, heights = (x.end - x.start) / count, y.at(largest)
    curve = []
    for i in filled:
        joined = i and np.isfinite(largest[i - 1])  # a pause of the policy is a gap in the curve
        left = x.start + i * width
        move = f"V{heights[i]:.1f}" if joined else f"M{left:.1f} {heights[i]:.1f}"
        curve.append(f"{move}H{left + width:.1f}")
    label = "largest end_to_end [ms]"
    parts = _frame(x, y, f"time since the first entry [{unit}]", label)
    parts.append(_path("curve", curve))
    late = np.unique(bins[missed])
    parts.append(_text(x.start - 6, 256, "missed", "end"))
    parts.append(_path("grid-line", [f"M{x.start:.0f} 252H{x.end:.0f}"]))
    parts.append(_path("bad", [f"M{x.start + (i + 0.5) * width:.1f} 246v12" for i in late]))
    free = -math.inf
    for number, fault in enumerate(faults, 1):
        position = float(x.at((fault.time - first) / divisor))
        parts.append(_path("bad", [f"M{position:.1f} 32V{y.start:.0f}"]))
        if position >= free:  # numbers must not overlap; the table has them all
            parts.append(_text(position, 28, str(number), kind="bad"))
            free = position + LABEL_WIDTH
    if record.facts.rate:
        height = float(y.at(period))
        parts.append(_path("mark", [f"M{x.start:.0f} {height:.1f}H{x.end:.0f}"]))
        parts.append(_text(x.end, height - 4, f"deadline: one period, {period:.4g} ms", "end"))
    return (
        f"<p>Largest value in each {span / count:.3g} s. Red: missed deadlines below, faults as"
        f" numbered lines.</p>{_svg(980, 264, 'end to end latency over time', parts)}"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    def cells(values: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(value)}</{tag}>" for value in values)

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{cells(head, "th")}</tr>{body}</table>'


def _faults(record: LatencyRecord) -> str:
    faults = record.facts.faults
    if not faults:
        return "<p>No fault on /diagnostics.</p>"
    first, _, unit, divisor = _shown_times(record)
    rows = [
        (str(number), f"{(fault.time - first) / divisor:.3f}", fault.text)
        for number, fault in enumerate(faults[:MOST_FAULTS], 1)
    ]
    more = len(faults) - len(rows)
    return _table(("fault", f"time [{unit}]", "what /diagnostics said"), rows) + (
        f"<p>And {more} more.</p>" if more else ""
    )


def page(record: LatencyRecord) -> str:
    """The whole HTML file."""
    facts, missed = record.facts, record.missed
    steps = len(record.samples)
    times = record.finite("time")
    seconds = float(np.ptp(times)) if len(times) else 0.0
    title = f"Latency of {facts.policy}"
    about = [
        ("policy", f"{facts.policy} {facts.policy_digest}"),
        ("robot", facts.robot),
        ("machine", facts.cpu),
        ("node", facts.node),
        ("topic", facts.topic),
        ("duration", f"{seconds:,.1f} s"),
        ("rate", f"{facts.rate:g} Hz, by the median period" if facts.rate else "unknown"),
        (
            "steps",
            f"{steps:,} recorded, {facts.lost:,} lost on the way"
            + (", the memory was full before the end" if facts.cut_short else ""),
        ),
        (
            "without the policy",
            f"{int(steps - record.acted.sum()):,} steps (held, damped or stopped), in neither"
            " percentiles nor distributions",
        ),
        (
            "missed deadlines",
            f"{int(missed.sum()):,} of {steps:,} ({missed.mean():.3%}), at most"
            f" {longest_row(missed):,} in a row",
        ),
    ]
    summary = record.summary()
    rows = [
        (name, *(f"{1e3 * summary[name][column]:.3f}" for column in PERCENTILES))
        for name in TIMES
        if name in summary
    ]
    figures = [
        f"<figure><figcaption><b>{name}</b>: {html.escape(MEANING[name])}</figcaption>"
        f"{histogram(record.acting(name), name)}</figure>"
        for name in summary
    ]
    facts_rows = "".join(
        f"<tr><th>{name}</th><td>{html.escape(value)}</td></tr>" for name, value in about
    )
    body = (
        f"<h1>{html.escape(title)}</h1><table>{facts_rows}</table>"
        f"<h2>Percentiles [ms]</h2>{_table(('', *PERCENTILES), rows, 'numbers')}"
        f"<h2>The run</h2><figure>{time_line(record)}</figure>{_faults(record)}"
        f'<h2>Distributions</h2><div class="grid">{"".join(figures)}</div>'
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{body}</html>\n"
    )


def write_page(record: LatencyRecord, path: Path) -> Path:
    """Write the page.

    Raises:
        InputError: it cannot be written.
    """
    write_atomically(path, page(record).encode())
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m ros_nodes.latency_page", description="A recorded run as one HTML page."
    )
    parser.add_argument("record", type=Path, help="a latency.npz that latency_monitor wrote")
    path: Path = parser.parse_args(argv).record
    print(write_page(read_record(path), path.with_suffix(".html")))
    return 0


if __name__ == "__main__":
    run_command(main)
