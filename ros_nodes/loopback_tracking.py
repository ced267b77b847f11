"""Tracking errors of a policy that tracks a velocity, compared with the training environment.

The environment runs the same policy, noise mode and velocity for the same time, without
randomisation and delays: this is the robot that sim_node simulates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dime_robot.runtime.contract.policy_spec import TWIST_AXES, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.config.randomization import LatencyConfig
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.robot_env import RobotEnv

VELOCITY = (0.5, 0.0, 0.0)  # the default [m/s, m/s, rad/s]
ERRORS = {"velocity_error": "m/s", "yaw_rate_error": "rad/s"}  # mean magnitudes over the steps
ERROR_SHARE, ERROR_SLACK = 1.2, 0.01  # of the environment's error; added to it [m/s, rad/s]


def velocity_to_send(
    given: Sequence[float] | None, spec: PolicySpec, robot: RobotConfig
) -> tuple[float, ...] | None:
    """Return the operator's velocity command [m/s, m/s, rad/s]; None: the policy has none.

    Raises:
        InputError: one is given to a policy without one, or it is beyond the robot's limits.
    """
    if not spec.needs("command_velocity"):
        if given is not None:
            raise InputError(f"--velocity: policy {spec.name} follows none: leave it out")
        return None
    require_compatible(spec, robot)
    assert robot.command_velocity is not None
    low, high = robot.command_velocity.bounds
    if given is None:
        return tuple(np.clip(VELOCITY, low, high).tolist())
    if not ((np.array(given) >= low) & (np.array(given) <= high)).all():  # also refuses NaN
        raise InputError(
            f"--velocity: expected {', '.join(TWIST_AXES)} from {list(low)} to {list(high)}, which"
            f" robot {robot.name} allows, got {list(given)}"
        )
    return tuple(given)


def nominal_environment(name: str) -> RobotEnv:
    """Make the training environment of sim_node's robot, without randomisation or delays."""
    config, model = load_robot_task(name)
    nominal = {"randomization": (), "latency": LatencyConfig()}
    return RobotEnv(name, variant=(config.model_copy(update=nominal), model))


def environment_errors(
    policy: OnnxPolicy,
    config: str,
    velocity: Sequence[float],
    seconds: float,
    episodes: int,
    seed: int,
) -> dict[str, float]:
    """Return mean errors over all control steps in the environment, and the share of falls.

    Args:
        policy: in the noise mode of the run; its noise is restarted with `seed`.
        config: name or path of the configuration that is simulated.
        velocity: the velocity command, shape (3,) [m/s, m/s, rad/s].
        seconds: length of an episode [s].
        episodes: number of episodes.
        seed: of initial states and noise.
    """
    env = nominal_environment(config)
    env.task.set_command(velocity)
    sums, steps, falls = dict.fromkeys(ERRORS, 0.0), 0, 0
    policy.reset(seed)
    for episode in range(episodes):
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        fallen, left = False, round(seconds * policy.spec.rate)
        while left and not fallen:
            observation, _, fallen, _, info = env.step(policy.act(observation))
            for name in ERRORS:
                sums[name] += info["measures"][name]
            steps, left = steps + 1, left - 1
        falls += fallen
    env.close()
    return {**{name: total / steps for name, total in sums.items()}, "fallen": falls / episodes}


def tracking_of(
    episodes: Sequence[dict[str, Any]], velocity: Sequence[float], environment: dict[str, float]
) -> dict[str, Any]:
    """Return mean errors of whole episodes over ROS, and those in the environment."""
    steps = [episode["steps"] for episode in episodes]
    return {
        "velocity": list(velocity),
        "fallen": sum(episode["fallen"] for episode in episodes),
        **{
            name: float(np.average([episode[name] for episode in episodes], weights=steps))
            for name in ERRORS
        },
        "environment": environment,
    }


def judge_tracking(tracking: dict[str, Any]) -> list[str]:
    """List what is worse than in the environment, one sentence each."""
    problems = []
    if tracking["fallen"]:
        problems.append(f"the robot fell in {tracking['fallen']} episodes")
    for name, unit in ERRORS.items():
        maximum = ERROR_SHARE * tracking["environment"][name] + ERROR_SLACK
        if tracking[name] > maximum:
            problems.append(
                f"{name.replace('_', ' ')} {tracking[name]:.3f} {unit}, expected at most"
                f" {maximum:.3f}: {ERROR_SHARE:g} times the environment's and {ERROR_SLACK:g}"
            )
    return problems


def describe_tracking(tracking: dict[str, Any], noise: str) -> None:
    """Print the errors."""
    velocity = ", ".join(f"{number:g}" for number in tracking["velocity"])
    environment = tracking["environment"]
    print(f"velocity     [{velocity}] m/s, m/s, rad/s ({noise} noise)")
    for name, unit in ERRORS.items():
        what = name.removesuffix("_error").replace("_", " ")
        print(
            f"error        {what:9s}{tracking[name]:8.3f} {unit:5s} in the environment"
            f" {environment[name]:.3f}"
        )
    if environment["fallen"]:
        print(f"environment  the robot fell in {environment['fallen']:.0%} of its episodes too")
