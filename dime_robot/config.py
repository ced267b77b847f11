"""Check and compare configurations: `python -m dime_robot.config check FILE`, `... diff A B`.

`check` reads a file like those in `sim_configs/`, builds its simulated robot, checks that policy
and robot are compatible, and simulates the default pose for two seconds; it prints every problem as
one sentence, and its exit code is 2 if there is one. `diff` prints the values that differ and the
section that each belongs to: a change in `policy` needs a new policy, `robot` describes the
machine.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(eval=("mujoco", "gymnasium"))

import sys
from collections.abc import Sequence

from dime_robot.results.tables import text_table
from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task

OWNERS = {
    "policy": "policy: a change needs a new policy",
    "robot": "robot: a property of the machine",
    "sim": "simulation: only training sees it",
    "task": "task: only training sees it",
    "training": "training: its own settings",
    "randomization": "training: how the simulated robots differ",
    "latency": "training: how late messages are",
    "suite": "evaluation: what is good enough",
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


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m dime_robot.config", __doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser("check", help="is this file right?")
    checked.add_argument("file", help="path, or name in sim_configs/")
    compared = commands.add_parser("diff", help="what differs, and who owns it")
    compared.add_argument("file")
    compared.add_argument("other")
    options = parser.parse_args(argv)
    name = options.file.removeprefix("sim:")  # as --env takes it
    if options.command == "check":
        return check(name)
    return diff(name, options.other.removeprefix("sim:"))


if __name__ == "__main__":
    run_command(main)
