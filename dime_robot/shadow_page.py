"""A shadow test as one page: `python -m dime_robot.shadow_page RECORDING policy.onnx`.

What a policy would have commanded and what was commanded, joint by joint. Without a policy the
recording is that of a dry run beside another controller. The page is self-contained and opens
offline.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(train=("matplotlib",))

import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dime_robot.results.html_page import html_page, html_table, inline_svg
from dime_robot.runtime.control.flight_recorder import read_recording
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.io.regular_files import write_atomically
from dime_robot.runtime.telemetry.flight_mcap import flight_content
from dime_robot.runtime.telemetry.replay import add_options, replay
from dime_robot.runtime.telemetry.shadow import Comparison, compare_commands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 1_500  # of a curve
POLICY, OTHER = "#c0392b", "#2b6a9b"
_STYLE = """
body { max-width: 62rem }
.numbers td:nth-child(n+2), .numbers th:nth-child(n+2) { text-align: right }
figure { break-inside: avoid } figcaption { margin-bottom: .4rem }
"""


def _figure(comparison: Comparison, joint: int) -> str:
    """Draw what both commanded, and below it the difference, as HTML."""
    step = -(-len(comparison.time) // MAX_POINTS)
    time = comparison.time[::step]
    name, unit = comparison.joints[joint], comparison.units[joint]
    ours, theirs = comparison.policy[::step, joint], comparison.other[::step, joint]

    def draw(figure: Figure) -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        upper.plot(time, theirs, color=OTHER, linewidth=1.0, label="commanded")
        upper.plot(time, ours, color=POLICY, linewidth=0.8, label="policy")
        upper.set(ylabel=f"command [{unit}]")
        upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0)
        lower.plot(time, ours - theirs, color="black", linewidth=0.8)
        lower.set(ylabel=f"difference [{unit}]", xlabel="time since the first step [s]")
        for axes in (upper, lower):
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)

    note = "" if step == 1 else f", one step in {step}"
    return (
        f"<figure><figcaption><b>{html.escape(name)}</b>{note}</figcaption>"
        f"{inline_svg(draw, (10.0, 3.6), f'commands of {name}')}</figure>"
    )


def page(comparison: Comparison, about: dict[str, str]) -> str:
    """Return the whole HTML file.

    Args:
        comparison: at least one step.
        about: facts for the table at the top.
    """
    off = comparison.difference
    rows = [
        (
            f"{joint} [{unit}]",
            f"{off[:, i].mean():.4g}",
            f"{np.sqrt((off[:, i] ** 2).mean()):.4g}",
            f"{off[:, i].max():.4g}",
            f"{np.ptp(comparison.other[:, i]):.4g}",
        )
        for i, (joint, unit) in enumerate(zip(comparison.joints, comparison.units, strict=True))
    ]
    head = ("difference", "mean", "root mean square", "max", "range of what was commanded")
    figures = "".join(_figure(comparison, i) for i in range(len(comparison.joints)))
    body = (
        f"<h1>Shadow test</h1>{html_table([*about.items(), ('compared', len(off))])}"
        f"<h2>Each joint</h2>{html_table(rows, head, 'numbers')}"
        f"<h2>Commands</h2>{figures}"
    )
    return html_page("Shadow test", body, _STYLE)


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m dime_robot.shadow_page", "A shadow test as one HTML page.")
    text = "of a dry run, or any recording that python -m dime_robot.runtime.replay takes"
    parser.add_argument("recording", type=Path, help=text)
    text = "the policy.onnx to run on the recording; default: the commands in that of a dry run"
    parser.add_argument("policy", type=Path, nargs="*", help=text)
    add_options(parser)
    text = "the file to write; default: beside the recording, ending in .html"
    parser.add_argument("--out", type=Path, help=text)
    options = parser.parse_args(argv)
    path: Path = options.recording
    target: Path = options.out or path.with_name(f"{path.stem}.html")
    if target.exists() and path.exists() and target.samefile(path):
        raise InputError(f"{target}: expected another file to write, got the recording: use --out")
    if not options.policy:
        content = None if path.is_dir() else flight_content(path)
        if content is None:
            raise InputError(f"{path}: expected a policy to run on these topics, got none")
        recording = read_recording(path, content)
        comparison = compare_commands(recording)
        about = {"recording": path.name, "policy": f"{recording.meta['policy_digest']:.12}"}
    else:
        found = replay(options)
        comparison, about = found.comparison, {"file": path.name, **found.about}
    if comparison is None:
        raise InputError(
            f"{path}: expected commands to compare with: those of another controller beside a dry"
            " run, recorded topics, or another policy than the one that was recorded"
        )
    write_atomically(target, page(comparison, about).encode())
    print(target)
    return 0


if __name__ == "__main__":
    run_command(main)
