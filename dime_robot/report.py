"""Reports: `python -m dime_robot.report FOLDER`.

A run folder gets `report.html`, one file that opens offline. A folder of collected results (one CSV
per task with the columns of `eval.csv`, several seeds each) gets figures and `summary.md`: see
`results/summary.py`.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(train=("torch", "matplotlib", "scipy"))

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dime_robot.results.eval_csv import EvalRow, read_eval_csv
from dime_robot.results.html_page import html_page, html_table
from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.policy.noise import NOISE_LEGEND, NoiseMode
from dime_robot.training.run_folder import RunFolder

if TYPE_CHECKING:  # matplotlib and torch take seconds to load
    from matplotlib.axes import Axes

    from dime_robot.training.checkpoint import FinalEvaluation
    from dime_robot.training.lineage import Lineage

MAX_VIDEO_BYTES = 500_000  # larger ones are not embedded: the report has to stay under 1 MB


def learning_curve(rows: Sequence[EvalRow], title: str) -> str:
    """Plot the return over steps with its spread over episodes, as an SVG element."""
    from dime_robot.results.figures import figure_of_returns

    def draw(axes: Axes) -> None:
        steps = [row.step for row in rows]
        mean = [row.return_mean for row in rows]
        low = [row.return_mean - row.return_std for row in rows]
        high = [row.return_mean + row.return_std for row in rows]
        axes.fill_between(steps, low, high, alpha=0.2, linewidth=0, label="± std over episodes")
        axes.plot(steps, mean, marker="o", markersize=3, label="mean return")

    return figure_of_returns(title, draw)


def _repetition(lineage: Lineage) -> str:
    """List the commands that produced the policy, and what was not recorded."""
    from dime_robot.training.lineage import commands

    lines = "<br>".join(f"<code>{html.escape(line)}</code>" for line in commands(lineage))
    unknown = any(stage.begins == "unknown" for stage in lineage)
    note = "<p>An earlier release began it and did not record --init or earlier environments.</p>"
    inits = [stage.init for stage in lineage if stage.init]
    digests = "".join(f"<p>--init began from the checkpoint with SHA-256 {d}.</p>" for d in inits)
    return f"<p>{lines}</p>{note if unknown else ''}{digests}"


def _final_table(final: Mapping[NoiseMode, FinalEvaluation]) -> str:
    rows = []
    for mode, result in final.items():
        low, high = result.interval_95
        success = result.success_rate
        rows.append(
            [
                mode,
                f"{result.return_mean:.1f} ± {result.return_std:.1f}",
                f"{result.return_iqm:.1f}",
                f"[{low:.1f}, {high:.1f}]",
                result.episodes,
                "-" if success is None else f"{success:.0%}",
            ]
        )
    head = ["noise", "return (mean ± std)", "IQM", "95 % of the mean", "episodes", "success"]
    return html_table(rows, head)


def _video(path: Path) -> str:
    if not path.exists():
        return ""
    if path.stat().st_size > MAX_VIDEO_BYTES:
        return f"<p>Video: <code>{html.escape(path.name)}</code>, beside this file.</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    source = f'<source src="data:video/mp4;base64,{data}" type="video/mp4">'
    return f"<h2>The policy</h2><video controls loop muted>{source}</video>"


def write_report(folder: Path) -> Path:
    """Write `report.html` into a run folder from its checkpoint and evaluations.

    Raises:
        InputError: not a run folder.
    """
    from dime_robot.training import checkpoint
    from dime_robot.training.presets import preset_config

    files = RunFolder(folder)
    record = checkpoint.load(files.checkpoint).record
    config = record.config
    rows = read_eval_csv(files.evaluations) if files.evaluations.exists() else []
    changed = differences(config, preset_config(config.preset, config.env))
    made = record.provenance
    title = f"{config.env}, {config.preset}, seed {config.seed}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<p class="soft">{record.step:,} of {config.steps:,} steps in'
        f" {record.wall_seconds / 60:.1f} minutes on {html.escape(made.get('cpu', '?'))}</p>",
    ]
    if rows:
        parts.append(f"<figure>{learning_curve(rows, title)}</figure>")
    if record.final:
        parts += ["<h2>Final evaluation</h2>", _final_table(record.final)]
        parts.append(f'<p class="soft">{"<br>".join(map(html.escape, NOISE_LEGEND))}</p>')
    parts.append(_video(files.video))
    parts.append(f"<h2>Settings that differ from the preset {html.escape(config.preset)}</h2>")
    if changed:
        parts.append(html_table(changed, ["setting", "this run", "preset and task"]))
    else:
        parts.append("<p>None.</p>")
    parts += ["<h2>To repeat it</h2>", _repetition(record.lineage)]
    parts += ["<h2>Made with</h2>", html_table(made.items(), ["what", "version"])]
    write_atomically(files.report, html_page(title, "".join(parts)).encode())
    return files.report


def main() -> int:
    """See the module's docstring."""
    parser = Parser(
        "python -m dime_robot.report",
        "Write the report of a run folder, or figures and summary of a folder of results.",
    )
    text = "that dime_robot.train wrote, or with a CSV per task"
    parser.add_argument("folder", type=Path, help=text)
    text = "what others reached, a CSV per task, to draw beside ours; by default FOLDER/reference"
    parser.add_argument("--reference", type=Path, help=text)
    options = parser.parse_args()
    folder: Path = options.folder
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, got a file: {folder.parent}?")
    if RunFolder(folder).checkpoint.exists():
        print(write_report(folder))
        return 0
    from dime_robot.results.summary import SUMMARY, write_results

    written = write_results(folder, options.reference)
    for path in written:
        print(path)
    if folder / SUMMARY not in written:
        print(f"{folder / SUMMARY} is another command's and stays as it is")
    return 0


if __name__ == "__main__":
    run_command(main)
