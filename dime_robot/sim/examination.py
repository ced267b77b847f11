"""Lists everything that is wrong with a configuration: `python -m dime_robot.config check`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import mujoco
import numpy as np
from pydantic import BaseModel, ValidationError

from dime_robot.runtime.contract.config_files import read_config
from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig, incompatibilities
from dime_robot.runtime.io.errors import InputError, all_problems
from dime_robot.sim.config.robot_task import (
    RobotTaskConfig,
    SimConfig,
    VelocityTrackingConfig,
    robot_task_of,
    robot_task_path,
)
from dime_robot.sim.model.fit import Fit
from dime_robot.sim.model.loading import compile_model
from dime_robot.sim.model.soundness import unsound
from dime_robot.sim.plant.delays import DelayedPlant
from dime_robot.sim.plant.plant import Plant, make_plant
from dime_robot.sim.pose_check import SECONDS, PoseResult, hold_default_pose
from dime_robot.sim.randomization.randomizer import Randomizer
from dime_robot.sim.robot_env import RobotEnv

Section = TypeVar("Section", bound=BaseModel)
MAX_SPEED = 1e9  # of joints without a valid robot section [rad/s or m/s]


@dataclass
class Findings:
    """The result of an examination."""

    problems: list[str] = field(default_factory=list)  # one sentence each
    summary: list[str] = field(default_factory=list)  # lines for the screen

    def add(self, problem: str) -> None:
        """Add a problem, unless it is known."""
        if problem not in self.problems:
            self.problems.append(problem)

    def catch(self, work: Callable[[], object]) -> None:
        """Call a function, and add the InputError that it raises."""
        try:
            work()
        except InputError as error:
            self.add(str(error))


def examine(name: str) -> Findings:
    """Check all of a configuration: its sections, the machine, the model, the default pose.

    Args:
        name: in `sim_configs/`, or a path.

    Raises:
        InputError: there is no such file, or it cannot be parsed.
    """
    path = robot_task_path(name)
    content = read_config(path)
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
            held = _examine_pose(policy, sim, robot, config, model, found)
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
    found.catch(lambda: DelayedPlant(make_plant(config, model), config.latency))
    if config.task is not None:
        found.catch(lambda: RobotEnv(config.policy.name, variant=(config, model)))
    else:
        found.catch(
            lambda: Randomizer(config.randomization, config.policy, make_plant(config, model))
        )


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
    if config is not None and isinstance(config.task, VelocityTrackingConfig):
        height = config.task.start_height
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
    if spec.held_joints:
        held_at = ", ".join(f"{name} {at:g}" for name, at in spec.held_joints.items())
        lines.append(f"ok  held beside the policy: {held_at} [rad or m]")
    if config.sim.free:
        lines.append(f"ok  free beside the policy: {', '.join(config.sim.free)}")
    if config.task is None:
        lines.append("ok  no task: it can be checked and simulated, not trained")
    return lines
