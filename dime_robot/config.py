"""Look at configurations: `python -m dime_robot.config check FILE`, `... diff A B`.

`check` reads a file of the kind of `sim_configs/*.yaml`, builds its simulated robot and sees
whether policy and robot fit each other. `diff` says which numbers differ, and who owns them: what
the policy owns was trained with and needs a new policy, what the robot owns are facts of the
machine.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.extras import require_extras

    require_extras(eval=("mujoco", "gymnasium"))

import argparse
from collections.abc import Sequence

from dime_robot.runtime.command import run_command
from dime_robot.runtime.places import differences
from dime_robot.runtime.robot import require_compatible
from dime_robot.sim.config import load_robot_task
from dime_robot.sim.env import RobotEnv

OWNERS = {
    "policy": "policy: a change needs a new policy",
    "robot": "robot: a fact of the machine",
    "sim": "simulation: only training sees it",
    "task": "task: only training sees it",
    "randomization": "training: how the simulated robots differ",
    "latency": "training: how late messages are",
    "suite": "evaluation: what is good enough",
}
SAME, DIFFERENT = 0, 1


def check(name: str) -> int:
    """Validate one configuration."""
    config, model = load_robot_task(name)
    require_compatible(config.policy, config.robot)
    env = RobotEnv(config.policy.name, variant=(config, model))  # all that training would build
    spec = config.policy
    print(
        f"ok  policy {spec.name}: {spec.n_obs} observations, {spec.n_act} {spec.action.kind}"
        f" actions, {spec.rate:g} Hz"
    )
    print(f"ok  robot {config.robot.name}: {len(config.robot.joints)} joints, all limits kept")
    print(
        f"ok  model {model.name}: {env.plant.model.nv} degrees of freedom,"
        f" {config.sim.timestep:g} s x {config.sim.decimation}"
    )
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
