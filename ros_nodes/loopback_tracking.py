"""A policy that follows commands: what it is commanded in a loopback, and how well it follows.

The same policy runs in the training environment first, in the same noise mode, with the same
commands and from the same starts, without randomisation and delays: this is the robot that
sim_node simulates. Commands other than a velocity are drawn by the task's own terms, once per
episode. Over ROS the policy has to follow them as well as in the environment: metrics of the task
whose names end in `_error` are compared, and where there are none the return.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dime_robot.runtime.contract.policy_spec import TWIST_AXES, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.onnx_policy import OnnxPolicy
from dime_robot.sim.config.randomization import LatencyConfig
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.config.task import VELOCITY
from dime_robot.sim.robot_env import RobotEnv

DEFAULT_VELOCITY = (0.5, 0.0, 0.0)  # [m/s, m/s, rad/s]
ERROR = "_error"  # ends the names of metrics that are compared: mean magnitudes over the steps
ERROR_SHARE, ERROR_SLACK = 1.2, 0.01  # of the environment's error; added to it [its unit]
RETURN_SHARE = 0.9  # of the environment's mean return
Commands = dict[str, tuple[float, ...]]  # name -> value, of one episode


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
        return tuple(np.clip(DEFAULT_VELOCITY, low, high).tolist())
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


@dataclass(frozen=True)
class Rehearsal:
    """How a policy follows commands in the training environment.

    Attributes:
        commands: of each episode.
        errors: metric -> mean over all control steps, of metrics that end in `_error`.
        units: of these metrics, where the terms state one.
        returns: mean return of an episode.
        fallen: share of episodes that were terminated.
        starts: as `errors`, at the first step of an episode.
        seconds: length of an episode [s].
    """

    commands: tuple[Commands, ...]
    errors: dict[str, float]
    units: dict[str, str]
    returns: float
    fallen: float
    starts: dict[str, float]
    seconds: float


def commands_given(words: Sequence[str], spec: PolicySpec) -> Commands:
    """Return the commands of `--command NAME=NUMBER,NUMBER...`.

    Args:
        words: of the command line.
        spec: the policy's contract.

    Raises:
        InputError: no such command, or not its numbers.
    """
    sizes = {name: s.width for name, s in spec.signals.items() if s.kind == "command"}
    found: Commands = {}
    for word in words:
        name, _, text = word.partition("=")
        if name not in sizes:
            known = list(sizes) or "none, its policy follows no command but a velocity"
            raise InputError(f"--command {word}: expected a command of {known}, got {name!r}")
        try:
            value = tuple(float(number) for number in text.split(","))
        except ValueError:
            value = ()
        if len(value) != sizes[name] or not np.isfinite(value).all():
            raise InputError(
                f"--command {word}: expected {name}= and {sizes[name]} numbers with commas between"
                f" them, got {text!r}"
            )
        found[name] = value
    return found


def followed(spec: PolicySpec) -> set[str]:
    """Return the commands that a policy observes; a task may have others, for its rewards alone."""
    names = {name for name, signal in spec.signals.items() if signal.kind == "command"}
    return names | ({VELOCITY} if spec.needs("command_velocity") else set())


def rehearse(
    policy: OnnxPolicy, config: str, fixed: Commands, seconds: float, episodes: int, seed: int
) -> Rehearsal:
    """Run the policy in the training environment, with one set of commands per episode.

    Args:
        policy: in the noise mode of the run; its noise is restarted with `seed`.
        config: name or path of the configuration that is simulated.
        fixed: commands that are given; the task draws all others.
        seconds: length of an episode [s].
        episodes: number of episodes.
        seed: of initial states, commands and noise.
    """
    env = nominal_environment(config)
    task, sums, steps, falls, total = env.task, dict[str, float](), 0, 0, 0.0
    commands, sent = [], followed(policy.spec)
    starts, whole = dict[str, float](), round(seconds * policy.spec.rate)
    policy.reset(seed)
    for episode in range(episodes):
        for name in task.commands:
            task.set_command(name, np.array(fixed[name]) if name in fixed else None)
        observation, _ = env.reset(seed=seed if episode == 0 else None)
        drawn = {name: tuple(value.tolist()) for name, value in task.commands.items()}
        for name, value in drawn.items():  # for the whole episode
            task.set_command(name, np.array(value))
        commands.append({name: value for name, value in drawn.items() if name in sent})
        fallen, left = False, whole
        while left and not fallen:
            observation, reward, fallen, _, info = env.step(policy.act(observation))
            total += reward
            for name, metric in info["measures"].items():
                if name.endswith(ERROR):
                    sums[name] = sums.get(name, 0.0) + metric
                    if left == whole:
                        starts[name] = starts.get(name, 0.0) + metric / episodes
            steps, left = steps + 1, left - 1
        falls += fallen
    env.close()
    return Rehearsal(
        tuple(commands),
        {name: value / steps for name, value in sums.items()},
        {name: task.unit_of_metric(name) for name in sums},
        total / episodes,
        falls / episodes,
        starts,
        seconds,
    )


def tracking_of(
    episodes: Sequence[dict[str, Any]], rehearsal: Rehearsal, ramp: float
) -> dict[str, Any]:
    """Return commands and mean errors of whole episodes over ROS, and those in the environment.

    Args:
        episodes: as sim_node publishes them.
        rehearsal: of the same commands in the environment.
        ramp: `safety.ramp` of the robot, for which the error may stay what it is at the start [s].
    """
    steps = [episode["steps"] for episode in episodes]
    velocity = rehearsal.commands[0].get(VELOCITY)
    return {
        "velocity": None if velocity is None else list(velocity),
        "commands": [
            {name: list(value) for name, value in commands.items() if name != VELOCITY}
            for commands in rehearsal.commands[: len(episodes)]
        ],
        "fallen": float(np.mean([episode["fallen"] for episode in episodes])),
        **{
            name: float(np.average([episode[name] for episode in episodes], weights=steps))
            for name in rehearsal.errors
        },
        "units": rehearsal.units,
        "return": float(np.mean([episode["return"] for episode in episodes])),
        "environment": {
            **rehearsal.errors,
            "return": rehearsal.returns,
            "fallen": rehearsal.fallen,
        },
        "ramp": {
            name: start * min(1.0, ramp / rehearsal.seconds)
            for name, start in rehearsal.starts.items()
        },
    }


def judge_tracking(tracking: dict[str, Any]) -> list[str]:
    """List what is worse than in the environment, one sentence each."""
    problems = []
    environment, units = tracking["environment"], tracking["units"]
    if tracking["fallen"] > environment["fallen"]:
        problems.append(
            f"{tracking['fallen']:.0%} of the episodes were terminated (the robot fell, or failed),"
            f" in the environment {environment['fallen']:.0%}"
        )
    for name, unit in units.items():
        maximum = ERROR_SHARE * environment[name] + ERROR_SLACK + tracking["ramp"][name]
        if tracking[name] > maximum:
            problems.append(
                f"{name.replace('_', ' ')} {tracking[name]:.3f} {unit}, expected at most"
                f" {maximum:.3f}: {ERROR_SHARE:g} times the environment's, {ERROR_SLACK:g}, and"
                f" {tracking['ramp'][name]:.3f} for the ramp at the start"
            )
    expected = environment["return"]
    minimum = expected - (1 - RETURN_SHARE) * abs(expected)
    if not units and tracking["return"] < minimum:
        problems.append(
            f"return {tracking['return']:.1f}, expected at least {minimum:.1f}:"
            f" {RETURN_SHARE:.0%} of the environment's with the same commands"
        )
    return problems


def describe_tracking(tracking: dict[str, Any], noise: str) -> None:
    """Print the commands and the errors."""
    if tracking["velocity"] is not None:
        velocity = ", ".join(f"{number:g}" for number in tracking["velocity"])
        print(f"velocity     [{velocity}] m/s, m/s, rad/s ({noise} noise)")
    for number, commands in enumerate(tracking["commands"], 1):
        for name, value in commands.items():
            print(f"command {number:3d}  {name} [{', '.join(f'{x:.4g}' for x in value)}]")
    environment = tracking["environment"]
    for name, unit in tracking["units"].items():
        what = name.removesuffix(ERROR).replace("_", " ")
        print(
            f"error        {what:9s}{tracking[name]:8.3f} {unit:5s} in the environment"
            f" {environment[name]:.3f}"
        )
    print(
        f"mean         return {tracking['return']:8.1f}   in the environment"
        f" {environment['return']:.1f} ({noise} noise)"
    )
    if environment["fallen"]:
        print(f"environment  {environment['fallen']:.0%} of its episodes were terminated too")
