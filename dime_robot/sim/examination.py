"""Everything that is wrong with a configuration, at once: `python -m dime_robot.config check`."""

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
from dime_robot.runtime.contract.robot_config import RobotConfig, require_compatible
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
from dime_robot.sim.pose_check import SECONDS, Held, hold_default_pose
from dime_robot.sim.randomization.randomizer import Randomizer
from dime_robot.sim.robot_env import RobotEnv

Section = TypeVar("Section", bound=BaseModel)
SLOWEST = 1e-9  # [Hz]
SPEEDS = 1e9  # [rad/s or m/s] of joints whose robot is not known


@dataclass
class Findings:
    """What an examination came to."""

    problems: list[str] = field(default_factory=list)  # one sentence each
    facts: list[str] = field(default_factory=list)  # lines for the screen

    def add(self, problem: str) -> None:
        """Note a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def catch(self, work: Callable[[], object]) -> None:
        """Do something whose refusal is a problem."""
        try:
            work()
        except InputError as error:
            self.add(str(error))


def examine(name: str) -> Findings:
    """Look at all of a configuration: its sections, the machine, the model, the default pose.

    Args:
        name: in `sim_configs/`, or a path.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    path = robot_task_path(name)
    content = read_config(path)
    found = Findings()
    config: RobotTaskConfig | None = None
    try:
        RobotTaskConfig.model_validate(content)
        config, _ = robot_task_of(content, path)
    except ValidationError as error:
        for problem in all_problems(error):
            found.add(f"{path}: {problem}")
    # sections that are right by themselves are looked at even where another one is not
    policy = _section(PolicySpec, content.get("policy"))
    robot = _section(RobotConfig, content.get("robot"))
    sim = _section(SimConfig, content.get("sim"))
    if policy is not None and robot is not None:
        _compare(policy, robot, found)
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
                found.facts = _facts(config, model, held)
    return found


def _section(kind: type[Section], content: Any) -> Section | None:
    try:
        return kind.model_validate(content)
    except ValidationError:
        return None


def _compare(policy: PolicySpec, robot: RobotConfig, found: Findings) -> None:
    """Policy against machine: as a whole, and joint by joint, since one refusal hides the next."""
    found.catch(lambda: require_compatible(policy, robot))
    known = {joint.name for joint in robot.joints}
    for joint in policy.joints:
        if joint.name in known:
            # observing nothing, at a rate that any robot has: only what concerns this joint is left
            changes = {"joints": (joint,), "observation": (), "rate": SLOWEST}
            alone = policy.model_copy(update=changes)
            found.catch(lambda alone=alone: require_compatible(alone, robot))  # type: ignore[misc]


def _examine_model(policy: PolicySpec, sim: SimConfig, path: Path, found: Findings) -> bool:
    """The model by itself, and whether the contract's parts are in it. Can it be simulated?"""
    try:
        model, said = compile_model(path)
    except InputError as error:
        found.add(str(error))
        return False
    problems = unsound(model, said)
    if not problems:
        problems = [f"expected a model that MuJoCo does not warn of, got: {text}" for text in said]
        problems += Fit(model, policy, sim).problems
        try:
            sim.require_fit(policy)
        except ValueError:  # the configuration's own validation says so
            return False
    for problem in problems:
        found.add(f"{path}: {problem}")
    return not problems


def _examine_training(config: RobotTaskConfig, model: Path, found: Findings) -> None:
    """What training builds on the robot: task, randomisation, latency."""
    try:
        make_plant(config, model)
    except InputError as error:
        found.add(str(error))
        return
    for term in config.randomization:  # one by one: a refusal hides the next
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
) -> Held | None:
    """Two seconds of the default pose."""
    speeds = {joint.name: SPEEDS for joint in policy.joints}
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


def _facts(config: RobotTaskConfig, model: Path, held: Held) -> list[str]:
    spec, plant = config.policy, make_plant(config, model)
    if held.joint:
        hung = " hung up by its base" if plant.has_free_base else ""
        pose = (
            f"ok  pose held {SECONDS:g} s{hung}: largest error {held.error:.3g} rad or m"
            f" ({held.joint})"
        )
    else:
        pose = (
            f"ok  pose not held at action 0 (no joint has a target): {held.mover or 'no joint'}"
            f" moved {held.moved:.3g} rad or m in {SECONDS:g} s"
        )
    facts = [
        f"ok  policy {spec.name}: {spec.n_obs} observations, {spec.n_act} {spec.action.kind}"
        f" actions, {spec.rate:g} Hz",
        f"ok  robot {config.robot.name}: {len(config.robot.joints)} joints, all limits kept",
        f"ok  model {model.name}: {plant.model.nv} degrees of freedom, {config.sim.timestep:g} s x"
        f" {config.sim.decimation}, {config.sim.drive} drive",
        pose,
    ]
    if spec.held_joints:
        places = ", ".join(f"{name} {place:g}" for name, place in spec.held_joints.items())
        facts.append(f"ok  held beside the policy: {places} [rad or m]")
    if config.sim.free:
        facts.append(f"ok  free beside the policy: {', '.join(config.sim.free)}")
    if config.task is None:
        facts.append("ok  no task: it can be checked and simulated, not trained")
    return facts
