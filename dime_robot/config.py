"""Draft, check and compare configurations: `python -m dime_robot.config new|check|diff|terms`.

`new MODEL` surveys a robot's model (MJCF, URDF, `menagerie:NAME`) and writes a whole configuration
that `check` accepts, with every guess marked; or it says in one sentence why there is none. `check`
reads a file like those in `sim_configs/`, builds its simulated robot, checks that policy
and robot are compatible, and simulates the default pose for two seconds; it prints every problem as
one sentence, and its exit code is 2 if there is one. `diff` prints the values that differ and the
section that each belongs to: a change in `policy` needs a new policy, `robot` describes the
machine. `terms` lists the terms of which a task can consist.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(eval=("mujoco", "gymnasium"))

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

from dime_robot.results.tables import text_table
from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.draft_request import BASES, TASKS, DraftRequest
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.trust import typed_env

OWNERS = {
    "policy": "policy: a change needs a new policy",
    "robot": "robot: a property of the machine",
    "sim": "simulation: only training sees it",
    "task": "task: only training sees it",
    "training": "training: its own settings",
    "randomization": "training: how the simulated robots differ",
    "latency": "training: how late messages are",
    "suite": "evaluation: what is good enough",
    "symmetry": "training: the robot's mirror image",
    "curriculum": "training: the levels before the whole task",
}
SAME, DIFFERENT, REFUSED = 0, 1, 2


def check(name: str) -> int:
    """Validate one configuration: print a summary, or every problem that was found.

    Args:
        name: in `sim_configs/`, or a path.

    Raises:
        InputError: there is exactly one problem.
    """
    from dime_robot.sim.examination import examine  # MuJoCo takes a second to load

    typed_env(f"sim:{name}")
    found = examine(name)
    if len(found.problems) == 1:
        raise InputError(found.problems[0])
    for problem in found.problems:
        print(f"error: {problem}", file=sys.stderr)
    if found.problems:
        print(f"{len(found.problems)} problems", file=sys.stderr)
        return REFUSED
    print("\n".join(found.summary))
    return SAME


def diff(name: str, other: str) -> int:
    """Print the differences between two configurations."""
    found = differences(load_robot_task(name)[0], load_robot_task(other)[0])
    if found:
        rows = [[*difference, OWNERS[difference[0].split(".")[0]]] for difference in found]
        print(text_table(["place", name, other, "owner"], rows))
    print(f"{len(found)} differences" if found else "no difference")
    return DIFFERENT if found else SAME


def new(request: DraftRequest) -> int:
    """Draft a configuration from a robot's model, and print what to know about it.

    Args:
        request: what is asked for.

    Raises:
        InputError: why there is no configuration that the check would accept.
    """
    from dime_robot.sim.draft.new import draft, lines

    print("\n".join(lines(draft(request))))
    return SAME


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m dime_robot.config", __doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser("check", help="is this file right?")
    checked.add_argument("file", help="path, or name in sim_configs/")
    compared = commands.add_parser("diff", help="what differs, and who owns it")
    compared.add_argument("file")
    compared.add_argument("other")
    _add_new(commands.add_parser("new", help="draft one from a robot's model"))
    terms = commands.add_parser("terms", help="of which a task can consist")
    terms.add_argument(
        "which", nargs="?", help="a section, or a term whose whole description is shown"
    )
    options = parser.parse_args(argv)
    if options.command == "new":
        return new(
            DraftRequest(
                model=options.model,
                name=options.name,
                only=options.only,
                task=options.task,
                output=options.output,
                base=options.base,
                force=options.force,
            )
        )
    if options.command == "terms":
        from dime_robot.sim.tasks.listing import listed  # MuJoCo takes a second to load

        print("\n".join(listed(options.which)))
        return SAME
    name = options.file.removeprefix("sim:")  # as --env takes it
    if options.command == "check":
        return check(name)
    return diff(name, options.other.removeprefix("sim:"))


def _add_new(parser: ArgumentParser) -> None:
    parser.add_argument(
        "model", help="MJCF or URDF file, or menagerie:NAME[/ENTRY] of MuJoCo Menagerie"
    )
    parser.add_argument("--name", help="of robot, policy and file; default: from the model's")
    parser.add_argument(
        "--only",
        metavar="REGEX",
        help="the policy moves only the joints whose name has a match; others are held",
    )
    parser.add_argument("--task", choices=TASKS, help="what is learned; default: what fits best")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: NAME.yaml, here")
    parser.add_argument(
        "--base", choices=BASES, default="auto", help="of URDF: whether the root link moves freely"
    )
    parser.add_argument("--force", action="store_true", help="replace existing files")


if __name__ == "__main__":
    run_command(main)
