"""Look at configurations: `python -m dime_robot.config check FILE`, `... diff A B`.

`check` reads a file of the kind of `sim_configs/*.yaml`, builds its simulated robot, sees whether
policy and robot fit each other, and simulates the default pose for two seconds; it says everything
that is wrong, one sentence each, and ends with 2 where something is. `diff` says which numbers
differ, and who owns them: what the policy owns was trained with and needs a new policy, what the
robot owns are facts of the machine.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(eval=("mujoco", "gymnasium"))

import argparse
import sys
from collections.abc import Sequence

from dime_robot.runtime.contract.config_diff import differences
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import load_robot_task

OWNERS = {
    "policy": "policy: a change needs a new policy",
    "robot": "robot: a fact of the machine",
    "sim": "simulation: only training sees it",
    "task": "task: only training sees it",
    "randomization": "training: how the simulated robots differ",
    "latency": "training: how late messages are",
    "suite": "evaluation: what is good enough",
}
SAME, DIFFERENT, REFUSED = 0, 1, 2


def check(name: str) -> int:
    """Validate one configuration: print what is right, or every problem that was found.

    Args:
        name: in `sim_configs/`, or a path.

    Raises:
        InputError: there is one problem.
    """
    from dime_robot.sim.examination import examine  # MuJoCo takes a second to come

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
    """Show what differs between two."""
    found = differences(load_robot_task(name)[0], load_robot_task(other)[0])
    for place, ours, theirs in found:
        print(f"{place:48s} {ours!s:>14s} -> {theirs!s:14s} {OWNERS[place.split('.')[0]]}")
    print(f"{len(found)} differences" if found else "no difference")
    return DIFFERENT if found else SAME


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m dime_robot.config", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checked = commands.add_parser("check", help="is this file right?")
    checked.add_argument("file", help="path, or name in sim_configs/")
    compared = commands.add_parser("diff", help="what differs, and who owns it")
    compared.add_argument("file")
    compared.add_argument("other")
    options = parser.parse_args(argv)
    if options.command == "check":
        return check(options.file)
    return diff(options.file, options.other)


if __name__ == "__main__":
    run_command(main)
