"""Lists everything that is wrong with a configuration: `python -m dime_robot.config check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import mujoco
import numpy as np
from pydantic import BaseModel, ValidationError

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, incompatibilities
from dime_robot.runtime.io.errors import InputError, all_problems
from dime_robot.sim.config.robot_task import (
    RobotTaskConfig,
    SimConfig,
    read_robot_task,
    require_task,
    robot_task_of,
    robot_task_path,
)
from dime_robot.sim.config.task import VELOCITY, TaskConfig
from dime_robot.sim.mirror_check import mirror_problem
from dime_robot.sim.model.fit import Fit
from dime_robot.sim.model.loading import compile_model, load_model, mujoco_warnings
from dime_robot.sim.model.mirror import asymmetry
from dime_robot.sim.model.soundness import unsound
from dime_robot.sim.plant.delays import DelayedPlant
from dime_robot.sim.plant.plant import Plant, make_plant
from dime_robot.sim.pose_check import SECONDS, PoseResult, hold_default_pose
from dime_robot.sim.randomization.randomizer import Randomizer
from dime_robot.sim.robot_env import RobotEnv
from dime_robot.sim.task_samples import sampled_problems
from dime_robot.sim.tasks.task import Task, largest_reward, problems, training_settings

Section = TypeVar("Section", bound=BaseModel)
MAX_SPEED = 1e9  # of joints without a valid robot section [rad/s or m/s]


@dataclass
class Findings:
    """The result of an examination."""

    problems: list[str] = field(default_factory=list)  # one sentence each
    summary: list[str] = field(default_factory=list)  # lines for the screen
    pose: PoseResult | None = None  # of the simulation of the default pose, if there was one

    def add(self, problem: str) -> None:
        """Add a problem, unless it is known."""
        if problem not in self.problems:
            self.problems.append(problem)

    def catch(self, work: Callable[[], object]) -> bool:
        """Call a function, and add the InputError that it raises; return whether there was none."""
        try:
            work()
        except InputError as error:
            self.add(str(error))
            return False
        return True


def examine(name: str) -> Findings:
    """Check all of a configuration: its sections, the machine, the model, the default pose.

    Args:
        name: in `sim_configs/`, or a path.

    Raises:
        InputError: there is no such file, or it cannot be parsed.
    """
    path = robot_task_path(name)
    content = read_robot_task(path)
    found = Findings()
    config: RobotTaskConfig | None = None
    try:
        config, _ = robot_task_of(content, path)
    except ValidationError as error:
        for problem in all_problems(error):
            found.add(f"{path}: {problem}")
    # valid sections are checked even if another one is invalid
    policy = _section(PolicySpec, content.get("policy"))
    robot = _section(RobotConfig, content.get("robot"))
    sim = _section(SimConfig, content.get("sim"))
    task = _section(TaskConfig, content.get("task"))
    if task is not None:
        for problem in problems(task, path):
            found.add(problem)
    if policy is not None and robot is not None:
        for incompatibility in incompatibilities(policy, robot):
            found.add(str(incompatibility))
    if policy is not None and sim is not None:
        model = path.parent / sim.model
        sound = _examine_model(policy, sim, model, found)
        known = {joint.name for joint in robot.joints} if robot is not None else set()
        complete = all(joint.name in known for joint in policy.joints)
        if sound and config is not None and complete:
            _examine_training(config, model, found)
        if sound:
            held = found.pose = _examine_pose(policy, sim, robot, config, model, found)
            if held is not None and config is not None and not found.problems:
                found.summary = _summary(config, model, held)
    return found


def _section(kind: type[Section], content: Any) -> Section | None:
    try:
        return kind.model_validate(content)
    except ValidationError:
        return None


def _examine_model(policy: PolicySpec, sim: SimConfig, path: Path, found: Findings) -> bool:
    """Check the model and whether it fits the contract; return whether it can be simulated."""
    try:
        model, warned = compile_model(path)
    except InputError as error:
        found.add(str(error))
        return False
    problems = unsound(model, warned)
    if not problems:
        problems = [
            f"expected a model that MuJoCo does not warn of, got: {text}" for text in warned
        ]
        problems += Fit(model, policy, sim).problems
        try:
            sim.require_fit(policy)
        except ValueError:  # reported by the validation of the configuration
            return False
    for problem in problems:
        found.add(f"{path}: {problem}")
    return not problems


def _examine_training(config: RobotTaskConfig, model: Path, found: Findings) -> None:
    """Check what training needs: task, randomization, latency."""
    try:
        make_plant(config, model)
    except InputError as error:
        found.add(str(error))
        return
    for term in config.randomization:  # one by one, since an error hides the next
        found.catch(
            lambda term=term: Randomizer([term], config.policy, make_plant(config, model))  # type: ignore[misc]
        )
    if config.symmetry is not None:
        loaded = load_model(model, config.sim.timestep)
        problem = asymmetry(loaded, config.policy, config.sim, config.symmetry)
        if problem is not None:
            found.add(f"{model}: {problem}")
    found.catch(lambda: DelayedPlant(make_plant(config, model), config.latency))
    if config.task is not None:
        privileged = bool(config.task.privileged)
        if found.catch(
            lambda: RobotEnv(config.policy.name, variant=(config, model), privileged=privileged)
        ):
            found.catch(lambda: training_settings(config))
            found.catch(lambda: _begin_levels(config, model))
            found.catch(lambda: _examine_episodes(config, model, found))
    else:
        found.catch(
            lambda: Randomizer(config.randomization, config.policy, make_plant(config, model))
        )


def _begin_levels(config: RobotTaskConfig, model: Path) -> None:
    """Begin an episode in every level of the curriculum."""
    privileged = bool(require_task(config).privileged)
    env = RobotEnv(config.policy.name, variant=(config, model), privileged=privileged)
    for number in range(len(config.curriculum)):
        env.reset(seed=0, options={"level": number})


def _examine_episodes(config: RobotTaskConfig, model: Path, found: Findings) -> None:
    """Check what shows only in episodes."""
    with mujoco_warnings():  # the problem says what has diverged
        privileged = bool(require_task(config).privileged)
        env = RobotEnv(config.policy.name, variant=(config, model), privileged=privileged)
        for problem in sampled_problems(env):
            found.add(problem)


def _examine_pose(
    policy: PolicySpec,
    sim: SimConfig,
    robot: RobotConfig | None,
    config: RobotTaskConfig | None,
    path: Path,
    found: Findings,
) -> PoseResult | None:
    """Check the default pose."""
    speeds = {joint.name: MAX_SPEED for joint in policy.joints}
    speeds |= {joint.name: joint.velocity_limit for joint in robot.joints} if robot else {}
    height = None
    try:
        if config is not None and config.task is not None:
            height = Task(config, Plant(policy, sim, path, speeds)).start_height
    except InputError:  # reported with everything else that training needs
        pass
    try:
        held = hold_default_pose(lambda: Plant(policy, sim, path, speeds), height)
    except InputError as error:
        found.add(str(error))
        return None
    except (ValueError, mujoco.FatalError, mujoco.UnexpectedError, np.linalg.LinAlgError) as error:
        found.add(f"{path}: it cannot be simulated: {' '.join(str(error).split())}")
        return None
    for problem in held.problems:
        found.add(f"{path}: {problem}")
    return held


def _summary(config: RobotTaskConfig, model: Path, held: PoseResult) -> list[str]:
    spec, plant = config.policy, make_plant(config, model)
    if held.error_joint:
        hung = " hung up by its base" if plant.has_free_base else ""
        pose = (
            f"ok  pose held {SECONDS:g} s{hung}: largest error {held.error:.3g} rad or m"
            f" ({held.error_joint})"
        )
    else:
        pose = (
            f"ok  pose not held at action 0 (no joint has a target):"
            f" {held.motion_joint or 'no joint'} moved {held.motion:.3g} rad or m in {SECONDS:g} s"
        )
    lines = [
        f"ok  policy {spec.name}: {spec.n_obs} observations, {spec.n_act} {spec.action.kind}"
        f" actions, {spec.rate:g} Hz",
        f"ok  robot {config.robot.name}: {len(config.robot.joints)} joints, all limits kept",
        f"ok  model {model.name}: {plant.model.nv} degrees of freedom, {config.sim.timestep:g} s x"
        f" {config.sim.decimation}, {config.sim.drive} drive",
        pose,
    ]
    if spec.action.kind != "flat":
        lines.append(f"ok  action at 1: {_ranges(spec)}")
    if interpolation := config.robot.command.interpolated:
        lines.append(f"ok  commands: interpolation {interpolation.describe(spec)}")
    if spec.held_joints:
        held_at = ", ".join(f"{name} {at:g}" for name, at in spec.held_joints.items())
        lines.append(f"ok  held beside the policy: {held_at} [rad or m]")
    if config.sim.free:
        lines.append(f"ok  free beside the policy: {', '.join(config.sim.free)}")
    if config.task is not None:
        lines.append(_task_line(config))
        if config.curriculum:
            names = ", ".join(level.name for level in config.curriculum)
            lines.append(f"ok  curriculum: {names}, then the whole task")
        lines += _training_lines(config, model)
    else:
        lines.append("ok  no task: it can be checked and simulated, not trained")
    return lines


def _ranges(spec: PolicySpec) -> str:
    """Return how far an action of 1 goes: joints or axes with their scale, equal ones together."""
    by_scale: dict[str, list[str]] = {}
    for name in spec.action_joints:
        by_scale.setdefault(f"{spec.action.scale[name]:.4g}", []).append(name)
    if len(by_scale) == 1:
        (text,) = by_scale
    else:
        text = ", ".join(f"{' '.join(names)} {scale}" for scale, names in by_scale.items())
    unit = {"effort": "N m or N", "position": "rad or m", "velocity": "rad/s or m/s"}
    kept = ", kept within position_limits" if spec.action.within_limits else ""
    return f"{text} [{unit.get(spec.action.kind, 'm/s or rad/s')}]{kept}"


def _training_lines(config: RobotTaskConfig, model: Path) -> list[str]:
    """Return lines about options of training that a file makes possible."""
    lines, privileged = [], bool(require_task(config).privileged)
    if privileged:
        env = RobotEnv(config.policy.name, variant=(config, model), privileged=True)
        sizes = ", ".join(f"{name} {size}" for name, size in env.privileged_sizes.items())
        lines.append(f"ok  only for critics (--asymmetric-critic): {sizes}")
    if config.symmetry is not None:
        try:
            problem = mirror_problem(config, model, privileged)
        except InputError as error:
            problem = str(error)
        # no problem of the file: it may be trained without mirrored transitions
        lines.append(
            "ok  mirror image: for training with --symmetry"
            if problem is None
            else f"no  training with --symmetry: {problem}"
        )
    return lines


def _task_line(config: RobotTaskConfig) -> str:
    """Return one line about the task: how large its rewards are, and what the policy sees."""
    task = require_task(config)
    seen = set(config.policy.signals)
    if config.policy.needs("command_velocity"):
        seen.add(VELOCITY)
    names = [
        name if name in seen else f"{name} (which the policy does not observe)"
        for name in (*task.commands, *task.observations)
    ]
    signals = f", commands and sensors {', '.join(names)}" if names else ""
    return (
        f"ok  task: {len(task.rewards)} rewards, together up to {largest_reward(config):g} a step,"
        f" {len(task.terminations)} terminations{signals}"
    )
