"""Reports: `python -m dime_robot.report FOLDER`.

A run folder gets `report.html`, one file that opens offline. A folder of collected results (one CSV
per task with the columns of `eval.csv`, several seeds each) gets one figure per task.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.extras import require_extras

    require_extras(train=("torch", "tyro", "matplotlib"))

import base64
import csv
import html
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dime_robot import checkpoint
from dime_robot.learning.config import TrainConfig, differences, preset_config
from dime_robot.logger import EvalRow, read_eval_csv
from dime_robot.runtime.command import run_command
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.files import write_atomically

MAX_VIDEO_BYTES = 500_000  # larger ones stay beside the report, which has to stay under 1 MB

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5c6b7a; --line: #d8dee5; --back: #fff }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6ebf0; --soft: #9aa8b5; --line: #36424e; --back: #141a20 } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2rem }
p.soft, caption { color: var(--soft) }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
td, th { border-bottom: 1px solid var(--line); padding: .3rem 1.2rem .3rem 0; text-align: left }
figure { margin: 1rem 0; background: #fff; padding: .5rem; border-radius: .4rem }
svg, video { width: 100%; height: auto }
code { overflow-wrap: anywhere }
"""


def _svg(title: str, draw: Callable[[Axes], None]) -> str:
    """A figure of returns over steps as an SVG element, the same bytes for the same data."""
    with matplotlib.rc_context({"svg.hashsalt": "dime", "font.size": 10}):
        figure = Figure(figsize=(7, 3.6), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        axes.set(xlabel="environment steps", ylabel="return (unscaled)", title=title)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def learning_curve(rows: Sequence[EvalRow], title: str) -> str:
    """Return over steps with its spread over episodes, as an SVG element."""

    def draw(axes: Axes) -> None:
        steps = [row.step for row in rows]
        mean = [row.return_mean for row in rows]
        low = [row.return_mean - row.return_std for row in rows]
        high = [row.return_mean + row.return_std for row in rows]
        axes.fill_between(steps, low, high, alpha=0.2, linewidth=0, label="± std over episodes")
        axes.plot(steps, mean, marker="o", markersize=3, label="mean return")

    return _svg(title, draw)


def results_figure(path: Path) -> Path:
    """Draw a task's CSV: every seed, their mean, and the cited reference where there is one.

    A reference is `reference/NAME.csv` beside it with the columns step, iqm, mean, min, max.

    Raises:
        InputError: not such a file.
    """
    rows = read_eval_csv(path)
    seeds = sorted({row.seed for row in rows})
    curves = {seed: {r.step: r.return_mean for r in rows if r.seed == seed} for seed in seeds}
    reference = path.parent / "reference" / path.name

    def draw(axes: Axes) -> None:
        for seed, curve in curves.items():
            label = f"seeds {seeds[0]} to {seeds[-1]}" if seed == seeds[0] else None
            axes.plot(list(curve), list(curve.values()), color="C0", alpha=0.35, label=label)
        shared = sorted(set.intersection(*(set(curve) for curve in curves.values())))
        mean = [sum(curve[step] for curve in curves.values()) / len(seeds) for step in shared]
        axes.plot(shared, mean, color="C0", linewidth=2, label="mean over seeds")
        if reference.exists():
            with reference.open(newline="") as file:
                table = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
            table = [row for row in table if row["step"] <= 1.05 * max(shared)]
            column = {name: [row[name] for row in table] for name in table[0]}
            axes.fill_between(
                column["step"], column["min"], column["max"], color="C1", alpha=0.15, linewidth=0
            )
            axes.plot(column["step"], column["mean"], color="C1", label="authors: mean, range")

    figure = path.with_suffix(".svg")
    write_atomically(figure, (_svg(path.stem, draw) + "\n").encode())
    return figure


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cells(values: Sequence[Any], tag: str) -> str:
        return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)

    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{cells(head, 'th')}</tr>{body}</table>"


def _final_table(final: Mapping[str, Mapping[str, Any]]) -> str:
    rows = []
    for mode, result in final.items():
        low, high = result["interval_95"]
        success = result["success_rate"]
        rows.append(
            [
                mode,
                f"{result['return_mean']:.1f} ± {result['return_std']:.1f}",
                f"{result['return_iqm']:.1f}",
                f"[{low:.1f}, {high:.1f}]",
                result["episodes"],
                "-" if success is None else f"{success:.0%}",
            ]
        )
    head = ["noise", "return (mean ± std)", "IQM", "95 % of the mean", "episodes", "success"]
    return _table(head, rows)


def _video(path: Path) -> str:
    if not path.exists():
        return ""
    if path.stat().st_size > MAX_VIDEO_BYTES:
        return f"<p>Video: <code>{html.escape(path.name)}</code>, beside this file.</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    source = f'<source src="data:video/mp4;base64,{data}" type="video/mp4">'
    return f"<h2>The policy</h2><video controls loop muted>{source}</video>"


def _command(config: TrainConfig) -> str:
    """The command line that gives this configuration."""
    words = ["python -m dime_robot.train", f"--env {config.env}", f"--preset {config.preset}"]
    for name, (value, _) in differences(config, preset_config(config.preset, config.env)).items():
        option = name.replace("_", "-")
        words.append(f"--{option} {value}" if value is not True else f"--{option}")
    return " ".join(words)


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder from its checkpoint and evaluations.

    Raises:
        InputError: not a run folder.
    """
    state = checkpoint.load(folder / "ckpt.pt")
    config = checkpoint.config_of(state, folder / "ckpt.pt")
    rows = read_eval_csv(folder / "eval.csv") if (folder / "eval.csv").exists() else []
    changed = differences(config, preset_config(config.preset, config.env))
    made = state["provenance"]
    title = f"{config.env}, {config.preset}, seed {config.seed}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{state["step"]:,} of {config.steps:,} steps in'
        f" {state['wall_seconds'] / 60:.1f} minutes on {html.escape(made['cpu'])}</p>",
    ]
    if rows:
        parts.append(f"<figure>{learning_curve(rows, title)}</figure>")
    if state["final"]:
        parts += ["<h2>Final evaluation</h2>", _final_table(state["final"])]
    parts.append(_video(folder / "video.mp4"))
    parts.append(f"<h2>Settings that differ from the preset {html.escape(config.preset)}</h2>")
    if changed:
        table = [[name, value, preset] for name, (value, preset) in changed.items()]
        parts.append(_table(["setting", "this run", "preset and task"], table))
    else:
        parts.append("<p>None.</p>")
    parts.append(f"<h2>To repeat it</h2><p><code>{html.escape(_command(config))}</code></p>")
    parts += ["<h2>Made with</h2>", _table(["what", "version"], list(made.items()))]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{''.join(parts)}</html>\n"
    )
    path = folder / "report.html"
    write_atomically(path, page.encode())
    return path


@dataclass(frozen=True)
class Arguments:
    """Write the report of a run folder, or the figures of a folder of results."""

    folder: tyro.conf.Positional[Path]
    """A folder that dime_robot.train wrote, or one with a CSV per task."""


def main() -> int:
    """See the module's docstring."""
    folder = tyro.cli(Arguments, prog="python -m dime_robot.report").folder
    tasks = sorted(folder.glob("*.csv"))
    if (folder / "ckpt.pt").exists():
        print(write_report(folder))
    elif tasks:
        for path in tasks:
            print(results_figure(path))
    else:
        raise InputError(f"{folder}: expected a run folder (ckpt.pt) or results (*.csv)")
    return 0


if __name__ == "__main__":
    run_command(main)
