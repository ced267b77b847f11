"""Compare interpolations of a policy's commands: `python -m benchmarks.interpolation [POLICY]`.

First the delay of each one by itself: commands at the policy's rate, sent and held at the higher
one. Then a policy that was trained without any: in the nominal and in the randomised conditions of
its suite, with the same seeds for each interpolation. Only this benchmark evaluates it so;
`dime_robot.evaluate` and policy_node refuse an interpolation that a policy was not trained with.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from gymnasium.wrappers import TimeLimit

from dime_robot.envs import Env, PlainEnv
from dime_robot.evaluation import robustness_suite as suite
from dime_robot.evaluation.rollout import STARTUP, Evaluator, seed_of
from dime_robot.loaded_policy import LoadedPolicy, load_policy
from dime_robot.runtime.contract.interpolation import NO_INTERPOLATION, Interpolation
from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.interpolation import CommandPath
from dime_robot.sim.config.robot_task import RobotTaskConfig, load_robot_task
from dime_robot.sim.robot_env import RobotEnv

FINE = 100  # moments between two commands that are compared
STEPS = 20  # of a policy, in the measurement of a delay


def held(interpolation: Interpolation, commands: FloatArray, per_step: int) -> FloatArray:
    """Return what a robot follows: each command until the next one, FINE values for each.

    Args:
        interpolation: between the commands.
        commands: of the policy, shape (steps,).
        per_step: commands in a period.
    """
    path, sent = CommandPath.of(interpolation, float(per_step)), []
    for step, command in enumerate(commands):
        now, goal = float(step * per_step), np.array([command])
        if path is not None:
            path.lead(now, path.at(now, commands[:1]), goal)
        for tick in range(per_step):
            value = goal if path is None else path.at(now + tick, goal)
            sent += [float(value[0])] * FINE
    return np.array(sent)


def print_delays(interpolations: list[Interpolation], period: float, per_step: int) -> None:
    """Print delay and overshoot of each interpolation, for a motion that begins and ends.

    Args:
        interpolations: to compare.
        period: of the policy [s].
        per_step: commands in a period.
    """
    half = STEPS // 2
    steps: FloatArray = np.arange(2 * STEPS, dtype=float)
    jump = np.where(steps < half, 0.0, 1.0)
    ramp = np.minimum(steps, STEPS)
    unit = 1e3 * period / (per_step * FINE)  # [ms] of one value
    print(f"{'':20s}half of a step after  all of it after  lag of a steady motion  overshoot")
    for each in interpolations:
        after = held(each, jump, per_step)[half * per_step * FINE :]
        moved = held(each, ramp, per_step)
        time = np.arange(len(moved)) / (per_step * FINE)  # in periods
        inside = (time >= half) & (time < STEPS)
        lag = 1e3 * period * float(np.mean(time[inside] - moved[inside]))
        print(
            f"{each!s:20s}{unit * np.argmax(after >= 0.5):18.1f} ms"
            f"{unit * np.argmax(after >= 1.0):14.1f} ms{lag:21.1f} ms"
            f"{moved.max() - STEPS:11.2f}"
        )


def with_interpolation(config: RobotTaskConfig, interpolation: Interpolation) -> RobotTaskConfig:
    """Return a configuration whose robot interpolates."""
    changes = {"interpolation": interpolation.kind, "rate": interpolation.rate}
    command = config.robot.command.model_copy(update=changes)
    robot = config.robot.model_copy(update={"command": command})
    return RobotTaskConfig.model_validate(config.model_copy(update={"robot": robot}))


def evaluate(
    policy: LoadedPolicy, condition: suite.Condition, given: argparse.Namespace
) -> suite.Row:
    """Evaluate all commands of a suite in one condition."""
    ours = condition.config.suite
    assert ours is not None

    def make(number: int, command: tuple[float, ...]) -> Env:
        startup = seed_of(given.seed, STARTUP, number)
        variant = (condition.config, condition.model)
        robot = RobotEnv(policy.env, variant=variant, startup_seed=startup)
        robot.task.set_command(ours.command, np.array(command))
        return PlainEnv(TimeLimit(robot, condition.config.episode_steps), policy.env)

    results = []
    for command in ours.commands:
        evaluator = Evaluator(
            policy.env,
            policy.noise_shape,
            given.episodes,
            lambda number, command=command: make(number, command),  # type: ignore[misc]
        )
        results.append(evaluator.run(policy.act_with, given.episodes, (given.seed, 4), given.noise))
        evaluator.close()
    return suite.Row(condition, tuple(results), ours.score)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("policy", type=Path, nargs="?", default=Path("results/go2/policy.onnx"))
    parser.add_argument("--rate", type=float, default=200.0, help="of the commands [Hz]")
    parser.add_argument("--episodes", type=int, default=4, help="per condition and command")
    parser.add_argument("--noise", default="fresh", help="of the sampler")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    policy = load_policy(given.policy)
    config, model = load_robot_task(policy.env.removeprefix("sim:"))
    interpolations = [
        NO_INTERPOLATION,
        *(Interpolation(kind=kind, rate=given.rate) for kind in ("linear", "cubic")),
    ]
    per_step = interpolations[1].per_step(policy.spec)
    print(f"{policy.spec.name}: {policy.spec.rate:g} Hz to {given.rate:g} Hz")
    print_delays(interpolations, policy.spec.period, per_step)
    ours = suite.suite_of(config, policy.env)
    print("\n" + suite.header(ours))
    first: suite.Row | None = None
    for base in suite.conditions(config, model, [], Path())[:2]:
        for each in interpolations:
            changed = with_interpolation(base.config, each)
            name = f"{base.name}, {each.kind}"
            row = evaluate(policy, suite.Condition(name, changed, model), given)
            first = first or row
            print(suite.line(row, first, ours), flush=True)


if __name__ == "__main__":
    main()
