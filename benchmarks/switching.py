"""Switch a walking robot between two policies: `python -m benchmarks.switching [--blend S]`.

The Go2 of `sim:go2` stands up and walks at 0.5 m/s; at random times, 0.2 to 0.8 s apart, the other
one of two policies is selected: results/go2/policy.onnx with 45 observations and
results/go2/history.onnx with 90, which was trained for this with the file beside it. Shown are
falls, gaps, steps of the command as a share of the velocity limits, and whether the recording
replays bit for bit. Exit code 1 if the robot falls, a gap is longer than 1.5 periods, a limit is
exceeded or an action differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.phases import SimulatedRobot
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.flight_recorder import Recording
from dime_robot.runtime.control.phases import Phase
from dime_robot.runtime.io import option_types
from dime_robot.runtime.io.command import run_command
from dime_robot.runtime.io.command_line import Parser
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.runtime.telemetry.replay import replay_switched
from dime_robot.sim.config.robot_task import load_robot_task

FOLDER = Path("results/go2")
WALK = np.array([0.5, 0.0, 0.0])  # [m/s, m/s, rad/s]
SHORTEST, LONGEST = 0.2, 0.8  # between two switches [s]
MAX_GAP = 1.5  # control periods
REPLAYED = 30  # switches between two replays, less than the recorder's 30 s


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's docstring."""
    parser = Parser("python -m benchmarks.switching", "Switch a walking robot between policies.")
    parser.add_argument(
        "--switches", type=option_types.int_in(1, 100_000), default=1000, help="number of switches"
    )
    text = "safety.blend of the robot [s]; default: that of its file"
    parser.add_argument("--blend", type=option_types.float_in(0.0, 60.0), help=text)
    text = "of the times between two switches"
    parser.add_argument("--seed", type=option_types.int_in(0, 2**31), default=0, help=text)
    options = parser.parse_args(argv)
    config, model = load_robot_task("go2")
    if options.blend is not None:
        safety = config.robot.safety.model_copy(update={"blend": options.blend})
        machine = config.robot.model_copy(update={"safety": safety})
        config = config.model_copy(update={"robot": machine})
    names = ("policy", "history")
    policies = {name: OnnxPolicy(FOLDER / f"{name}.onnx", noise="zero") for name in names}
    robot = SimulatedRobot(config, model, dict(policies))
    loop, plant, rng = robot.loop, robot.plant, np.random.default_rng(options.seed)
    plant.reset(plant.default_pose, 0.3)  # it sinks down
    robot.run(2.0)
    if problem := robot.activate():
        raise InputError(problem)
    robot.run(15.0, lambda: loop.phase == Phase.POLICY)
    robot.velocity = WALK
    robot.run(2.0)
    first = len(robot.decisions) - 1
    start, began = plant.data.qpos[:2].copy(), robot.time
    acted, switched, code, lines = {"policy"}, 0, 0, list[str]()
    problem = ""
    while not problem and not loop.latched and switched < options.switches:
        problem = loop.select(names[(switched + 1) % 2])
        robot.run(rng.uniform(SHORTEST, LONGEST))
        acted.add(robot.controller.acting)
        switched += 1
        if switched % REPLAYED == 0 or switched == options.switches:
            recorder = robot.controller.recorder
            found = replay_switched(
                Recording(recorder.records(), recorder.meta), list(policies.values())
            )
            code, lines = max(code, found[0]), found[1]
    steps = robot.decisions[first:]
    times = np.array([when for when, _ in steps])
    values = np.array([decision.command.value for _, decision in steps])
    gaps = np.diff(times)
    share = np.abs(np.diff(values, axis=0)) / (robot.speed_limits * gaps[:, None])
    distance = float(np.linalg.norm(plant.data.qpos[:2] - start))
    held = sum(decision.level >= SafetyLevel.HOLD for _, decision in steps)
    between = " and ".join(sorted(acted))
    print(f"switches   {switched:,} in {robot.time - began:.0f} s, between {between}")
    print(f"falls      {int(loop.latched)}, steps held or damped {held}, walked {distance:.0f} m")
    print(f"gap        at most {gaps.max() / config.policy.period:.2f} periods")
    print(f"change     at most {share.max():.2f} of a velocity limit")
    print("replay     " + "\n           ".join(lines))
    if problem:
        print(f"refused    {problem}")
    fine = not problem and not held and gaps.max() <= MAX_GAP * config.policy.period
    return 0 if fine and share.max() <= 1 + 1e-9 and not code else 1


if __name__ == "__main__":
    run_command(main)
