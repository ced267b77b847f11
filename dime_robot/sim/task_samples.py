"""What is wrong with a task, but shows only in episodes: `python -m dime_robot.config check`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.tasks.task import largest_rewards

STARTS = 20  # episodes that are begun
EPISODES, STEPS = 4, 25  # of them, with random actions
ENDED = 0.25  # share of starts after which an episode must not end at once
SLACK = 1e-3  # relative, on a reward's largest value


def sampled_problems(env: RobotEnv) -> list[str]:
    """Return what is wrong in a few short episodes, one sentence each.

    A reward above its largest value does not fit the critic's atoms; a command or a sensor whose
    values are all beyond the robot's limits is in another unit, most often; a task that ends where
    it begins teaches nothing.

    Args:
        env: of the task.

    Raises:
        InputError: a term fails.
    """
    task, config = env.task, env.config
    rng, spec = np.random.default_rng(0), env.policy_spec
    outside: Counter[str] = Counter()
    example: dict[str, FloatArray] = {}
    ended = 0
    largest: dict[str, float] = {}
    for start in range(STARTS):
        env.reset(seed=start)
        for name, value in _beyond_limits(env):
            outside[name] += 1
            example[name] = value
        for step in range(STEPS if start < EPISODES else 1):
            random = rng.uniform(-1, 1, spec.n_act) if step else np.zeros(spec.n_act)
            terminated = env.step(random.astype(np.float32))[2]
            ended += terminated and step == 0
            for name, reward in task.rewards.items():
                largest[name] = max(largest.get(name, reward), reward)
            if terminated:
                break
    place = f"{config.source}: task"
    found = [
        f"{place}.{_section(env, name)}.{name}: expected values within its limits in robot."
        f"{'sensors' if _section(env, name) == 'observations' else 'task_commands'}, got"
        f" {np.round(example[name], 4).tolist()} and others beyond them at {STARTS} of {STARTS}"
        " starts: are both in the same unit?"
        for name, count in outside.items()
        if count == STARTS
    ]
    if ended > ENDED * STARTS:
        found.append(
            f"{place}.terminations: expected episodes that last longer than one step, got"
            f" {ended} of {STARTS} that end at once"
        )
    if config.training.v_min is None or config.training.v_max is None:
        found += [
            f"{place}.rewards.{name}: expected at most {bound:g}, its largest value times its"
            f" weight, from which the atoms of the critic follow, got {largest[name]:.4g}: state"
            " `largest:` in its entry, or training.v_min and v_max"
            for name, bound in largest_rewards(config).items()
            if largest.get(name, 0.0) > bound + SLACK * abs(bound)
        ]
    return found


def _section(env: RobotEnv, name: str) -> str:
    return "commands" if name in env.task.commands else "observations"


def _beyond_limits(env: RobotEnv) -> Iterator[tuple[str, FloatArray]]:
    """Yield the signals whose current values the robot's limits exclude, name and value."""
    values = {**env.task.commands, **env.task.sensors()}
    for name, signal in env.policy_spec.signals.items():
        given = env.config.robot.signal(signal.kind, name)
        if given is None:
            continue  # another sentence says so
        low, high = given.bounds(signal.width)
        if ((values[name] < low) | (values[name] > high)).any():
            yield name, values[name]
