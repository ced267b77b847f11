"""Robustness of a policy that follows a command, condition by condition: `evaluate --suite`.

Conditions: the nominal robot, everything randomised as in training, each randomised quantity alone
at each end of its range, more passive joint damping, readings that are 0 to 3 control steps old,
and other models of the robot. In each, every command of the configuration's `suite.commands` is
evaluated separately.

All thresholds apply to the nominal robot, the randomised one and other models of it. For an end of
a randomised quantity there are thresholds on survival and on the loss of tracking reward. Joint
damping that was not randomised and late readings are only shown: no policy is trained for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gymnasium.wrappers import TimeLimit

from dime_robot.envs import Env, PlainEnv
from dime_robot.evaluation.rollout import STARTUP, Evaluation, Evaluator, Policy, seed_of
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.policy.noise import NoiseMode
from dime_robot.sim.config.randomization import Delay, LatencyConfig, RandomTerm
from dime_robot.sim.config.robot_task import (
    RobotTaskConfig,
    SuiteConfig,
    load_robot_task,
    require_task,
)
from dime_robot.sim.model.adaptation import completed
from dime_robot.sim.model.comparison import model_differences
from dime_robot.sim.model.loading import base_body
from dime_robot.sim.plant.plant import make_plant
from dime_robot.sim.randomization.randomizer import extremes, pinned
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.tasks.lookup import find, unit_of

NOMINAL, RANDOMIZED = "nominal", "randomised"
EPISODES = 4  # per condition and command
DELAYS = (1, 2, 3)  # [control steps]
DAMPINGS = (0.5, 1.0)  # passive, added to every joint of a position policy [N m s/rad or N s/m]
SIGNS = {"set": "= ", "add": "+", "scale": "x "}


@dataclass(frozen=True)
class Condition:
    """A robot on which the policy is evaluated."""

    name: str
    config: RobotTaskConfig
    model: Path
    trained: bool = False  # one extreme of a randomised quantity: survival and reward loss count
    foreign: bool = False  # another model of the robot: all thresholds apply
    differences: tuple[str, ...] = ()  # of another model, a line each

    @property
    def held_to_everything(self) -> bool:
        """Whether all thresholds apply to it, command by command."""
        return self.foreign or self.name in (NOMINAL, RANDOMIZED)


@dataclass(frozen=True)
class Row:
    """The result of one condition: an evaluation per command, in the configuration's order."""

    condition: Condition
    results: tuple[Evaluation, ...]
    score: str  # metric that is compared with the nominal robot's

    @property
    def tracking(self) -> float:
        """Mean score per step, such as the tracking reward; steps after a fall count as 0."""
        steps = self.condition.config.episode_steps
        episodes = [episode for result in self.results for episode in result.episodes]
        return sum(e.sums[self.score] for e in episodes) / (steps * len(episodes))

    @property
    def survival(self) -> float:
        """Share of episodes without a fall."""
        return sum(result.survival for result in self.results) / len(self.results)

    @property
    def effort_peak(self) -> float:
        """Largest effort [N m]."""
        return max(result.effort_peak or 0.0 for result in self.results)

    @property
    def action_rate(self) -> float:
        """Mean |a_t - a_{t-1}| per step."""
        return sum(result.action_rate for result in self.results) / len(self.results)


def suite_of(config: RobotTaskConfig, env: str) -> SuiteConfig:
    """Return the configuration's `suite`.

    Raises:
        InputError: it has none.
    """
    suite = config.suite
    if suite is None:
        raise InputError(f"{env}: expected a section `suite:` in its configuration, got none")
    metrics = require_task(config).metrics
    unknown = [name for name in (*suite.errors, suite.score) if name not in metrics]
    if unknown:
        raise InputError(
            f"{env}: suite: expected metrics of the task, out of {list(metrics)}, got {unknown[0]}"
        )
    return suite


def conditions(
    config: RobotTaskConfig, model: Path, others: Sequence[Path], folder: Path
) -> list[Condition]:
    """Make every condition, the nominal one first.

    Args:
        config: the robot and its task.
        model: its MJCF file.
        others: more models of the robot (MJCF).
        folder: for copies of those that lack a floor, or meshes that are only seen.

    Raises:
        InputError: a model does not fit this robot, or is given twice.
    """

    def with_only(**changes: object) -> RobotTaskConfig:
        plain = {"randomization": (), "latency": LatencyConfig()}
        return config.model_copy(update={**plain, **changes})

    found = [
        Condition(NOMINAL, with_only(), model),
        Condition(RANDOMIZED, config, model),
    ]
    for term in config.randomization:
        if term.kind == "observation_noise":  # one end of its range would be a bias, not noise
            only = with_only(randomization=(term,))
            found.append(Condition(f"noise {' '.join(term.targets)}", only, model, trained=True))
            continue
        for value in extremes(term):
            if value == (1.0 if term.operation == "scale" else 0.0):
                continue  # nominal
            name = f"{_title(term)} {SIGNS[term.operation]}{abs(value):.3g} {term.unit}"
            if term.operation == "add" and value < 0:
                name = name.replace("+", "-")
            only = with_only(randomization=(pinned(term, value),))
            found.append(Condition(name.removesuffix(" 1"), only, model, trained=True))
    known = {term.kind for term in config.randomization}
    if config.policy.action.kind in ("position", "velocity") and "joint_damping" not in known:
        for value in DAMPINGS:
            term = RandomTerm(
                kind="joint_damping", operation="add", range=(value, value), mode="reset"
            )
            name = f"joint damping +{value:g} {term.unit}"
            found.append(Condition(name, with_only(randomization=(term,)), model))
    for steps in DELAYS:
        seconds = steps * config.policy.period
        late = LatencyConfig(observation=Delay(range=(seconds, seconds)))
        found.append(Condition(f"delay of {steps} steps", with_only(latency=late), model))
    resolved = [str(other.resolve()) for other in others]
    twice = sorted({path for path in resolved if resolved.count(path) > 1})
    if twice:
        raise InputError(f"--model: expected each model once, got {twice} more than once")
    for given in others:  # their bodies and cameras have other names
        alike = [each for each in others if each.name == given.name]
        name = given.name if len(alike) == 1 else str(given)
        other, changes = completed(given, folder / str(len(found)))
        imu = None if config.sim.imu is None else base_body(other, config.policy)
        sim = config.sim.model_copy(update={"imu": imu, "camera": None})
        changed = with_only(sim=sim)
        make_plant(changed, other)  # a model that does not fit is refused before the first episode
        lines = [*changes, *model_differences(model, other, config.policy)]
        found.append(
            Condition(f"model {name}", changed, other, foreign=True, differences=tuple(lines))
        )
    return found


def _title(term: RandomTerm) -> str:
    words = term.kind.replace("_", " ")
    return f"{words} {term.targets[0]}" if len(term.targets) == 1 else words


@dataclass(frozen=True)
class Sampling:
    """Number of episodes, their seeds and noise, and which conditions."""

    episodes: int  # per condition and command
    seed: int  # initial states and noise are derived from it
    noise: NoiseMode = "fresh"
    only: str = ""  # conditions with this in their names, and the nominal one


def run_suite(
    env: str,
    policy: Policy,
    shape: tuple[int, int],
    sampling: Sampling,
    others: Sequence[Path],
    log: Callable[[str], None],
) -> tuple[list[Row], SuiteConfig]:
    """Run every condition, from the same seeds.

    Args:
        env: environment name, sim:NAME.
        policy: the policy to evaluate.
        shape: (N+1, d), the noise of one action.
        sampling: episodes, seed and selection of conditions.
        others: more models of the robot (MJCF).
        log: takes one line per condition.

    Raises:
        InputError: the environment has no velocity command, a model does not fit, or `only` is in
            no condition's name.
    """
    if not env.startswith("sim:"):
        raise InputError(f"--suite: expected a robot task (sim:NAME), got {env}")
    name = env.removeprefix("sim:")
    config, model = load_robot_task(name)
    suite = suite_of(config, env)
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        found = _selected(conditions(config, model, others, Path(folder)), sampling.only)
        log(header(suite))
        for condition in found:
            results = []
            for command in suite.commands:
                make = _maker(name, condition, suite.command, command, sampling.seed)
                evaluator = Evaluator(env, shape, min(20, sampling.episodes), make)
                seed = (sampling.seed, 4)
                results.append(evaluator.run(policy, sampling.episodes, seed, sampling.noise))
                evaluator.close()
            rows.append(Row(condition, tuple(results), suite.score))
            log(line(rows[-1], rows[0], suite))
            for difference in condition.differences:
                log(f"    {difference}")
    return rows, suite


def _selected(found: list[Condition], words: str) -> list[Condition]:
    """Return the conditions with some words in their names, and the nominal one."""
    if not any(words in condition.name for condition in found):
        raise InputError(
            f"--only: expected words of a condition's name, got {words!r}, which is in none of"
            f" {[condition.name for condition in found]}"
        )
    return [each for each in found if each.name == NOMINAL or words in each.name]


def _maker(
    name: str, condition: Condition, command: str, value: Sequence[float], seed: int
) -> Callable[[int], Env]:
    def make(number: int) -> Env:
        robot = RobotEnv(
            name,
            variant=(condition.config, condition.model),
            startup_seed=seed_of(seed, STARTUP, number),
        )
        try:
            robot.task.set_command(command, np.array(value))
        except InputError as error:
            raise InputError(f"suite.commands: {error}") from None
        return PlainEnv(TimeLimit(robot, condition.config.episode_steps), f"sim:{name}")

    return make


def header(suite: SuiteConfig) -> str:
    """Return the table's first line; below a command are the means of `suite.errors`."""
    commands = "".join(
        ",".join(f"{number:g}" for number in command).rjust(_width(suite))
        for command in suite.commands
    )
    return f"{'':32s}survival{commands}  tracking  action rate  effort peak"


def _width(suite: SuiteConfig) -> int:
    """Return the width of a command's column."""
    numbers = max(len(",".join(f"{x:g}" for x in command)) for command in suite.commands)
    return 2 + max(10, numbers, 5 * len(suite.errors) - 1)


def line(row: Row, nominal: Row, suite: SuiteConfig) -> str:
    """Format one condition: per command the mean errors."""
    errors = "".join(
        "/".join(f"{result.metrics[name]:.2f}" for name in suite.errors).rjust(_width(suite))
        for result in row.results
    )
    share = row.tracking / nominal.tracking
    return (
        f"{row.condition.name[:31]:32s}{row.survival:8.1%}{errors}{share:10.1%}"
        f"{row.action_rate:13.3f}{row.effort_peak:10.1f} N m"
    )


def _unit(config: RobotTaskConfig, metric: str) -> str:
    """Return the unit of a metric behind a number, with a space; empty: none."""
    unit = unit_of(find("metrics", require_task(config).metrics[metric], config.source))
    return f" {unit}" if unit else ""


def shortfalls(rows: Sequence[Row], suite: SuiteConfig) -> list[str]:
    """List the thresholds that are not met, one sentence each."""
    found: list[str] = []

    def check_error(where: str, result: Evaluation, name: str, limit: float) -> None:
        got = result.metrics[name]
        if not got <= limit:
            unit = _unit(rows[0].condition.config, name)
            text = f"{where}: {name.replace('_', ' ')} {got:.3f}{unit}"
            found.append(f"{text}, expected at most {limit:g}")

    def check_survival(where: str, survival: float) -> None:
        if not survival >= suite.survival:
            text = f"{where}: survival {survival:.0%}"
            found.append(f"{text}, expected at least {suite.survival:.0%}")

    for row in (row for row in rows if row.condition.held_to_everything):
        for command, result in zip(suite.commands, row.results, strict=True):
            where = f"{row.condition.name}, command {command}"
            for name, limit in suite.errors.items():
                check_error(where, result, name, limit)
            check_survival(where, result.survival)
    for row in rows:
        name, loss = row.condition.name, 1 - row.tracking / rows[0].tracking
        if row.condition.trained:
            check_survival(name, row.survival)
        if (row.condition.trained or row.condition.foreign) and not loss <= suite.extreme_loss:
            text = f"{name}: {loss:.0%} of the nominal {suite.score.replace('_', ' ')} lost"
            found.append(f"{text}, expected at most {suite.extreme_loss:.0%}")
    return found


def report(rows: Sequence[Row], suite: SuiteConfig) -> dict[str, Any]:
    """Return all results as plain values."""
    return {
        "conditions": {
            row.condition.name: [
                {"command": list(command), **result.summary()}
                for command, result in zip(suite.commands, row.results, strict=True)
            ]
            for row in rows
        },
        "differences": {
            row.condition.name: list(row.condition.differences)
            for row in rows
            if row.condition.foreign
        },
        "shortfalls": shortfalls(rows, suite),
    }
