"""Check that the simulated robot holds its default pose for two seconds, before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.model.loading import mujoco_warnings
from dime_robot.sim.plant.plant import Plant

SECONDS = 2.0  # simulated
SETTLED = 0.5  # [s] at the end, which are evaluated
MAX_ERROR = 0.05  # of a joint in this time, with the base fixed [rad or m]
MAX_SPEED = 1000.0  # of any coordinate; above it the simulation has diverged [rad/s or m/s]
MAX_FLIPS = 0.3  # share of steps at which an effort may change its sign
MIN_EFFORT = 0.1  # share of the largest effort, below which a change of sign does not count
START_SPEED = 0.01  # of the contract's joints, so that an upright pole falls [rad/s or m/s]
BASE_INERTIA = 1e6  # added to hold a free base in place [kg, kg m^2]


@dataclass
class PoseResult:
    """Result of two seconds in the default pose."""

    problems: list[str] = field(default_factory=list)  # one phrase each
    error: float = 0.0  # largest at the end, of joints with a target [rad or m]
    error_joint: str = ""  # its joint; empty: no joint has a target
    motion: float = 0.0  # largest of a joint of the contract [rad or m]
    motion_joint: str = ""  # its joint


def hold_default_pose(make: Callable[[], Plant], height: float | None) -> PoseResult:
    """Simulate the default pose and evaluate it.

    A robot with a free base is simulated twice: standing (or falling), where only the numbers have
    to stay finite, and with its base fixed and without contacts, where every joint with a target
    has to stay within MAX_ERROR of it.

    Args:
        make: builds the robot; called once or twice.
        height: of a free base [m]; None: as the model has it.

    Returns:
        The result; with a free base, errors are those with the base fixed.
    """
    plant = make()
    result = _simulate(plant, height)
    if plant.has_free_base and not result.problems:
        hung = make()
        _fix_base(hung)
        standing = result
        result = _simulate(hung, height)
        result.motion, result.motion_joint = standing.motion, standing.motion_joint
    if result.error_joint and not result.error <= MAX_ERROR and not result.problems:
        hung_up = " hung up by its base" if plant.has_free_base else ""
        result.problems.append(
            f"joint {result.error_joint}: expected at most {MAX_ERROR:g} rad or m between its"
            f" default position and where its drive holds it{hung_up}, got {result.error:.3g} after"
            f" {SECONDS:g} s; raise its stiffness or its effort limit"
        )
    return result


def _fix_base(plant: Plant) -> None:
    """Hold a free base in place, and disable contacts."""
    free = plant.free_joint
    assert free is not None
    start = int(plant.model.jnt_dofadr[free])
    plant.model.dof_armature[start : start + 6] += BASE_INERTIA
    plant.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT


def _simulate(plant: Plant, height: float | None) -> PoseResult:
    model, data = plant.model, plant.data
    result = PoseResult()
    names = list(plant.default_pose)
    with mujoco_warnings() as warned:
        plant.reset(plant.default_pose, height)
        start = plant.positions(names)
        data.qvel[plant.dofs] = START_SPEED
        steps = round(SECONDS / model.opt.timestep)
        settled = round((SECONDS - SETTLED) / model.opt.timestep)
        efforts: list[FloatArray] = []
        for step in range(steps):
            plant.advance(1)
            divergence = _divergence(plant)
            if divergence is not None:
                result.problems.append(divergence)
                break
            if step >= settled:
                efforts.append(plant.efforts())
                for name, error in plant.pose_errors().items():
                    if not result.error_joint or error > result.error:
                        result.error, result.error_joint = error, name
        moved = np.abs(plant.positions(names) - start)
    if names:
        result.motion, result.motion_joint = float(moved.max()), names[int(moved.argmax())]
    counted = {
        mujoco.mjtWarning(i).name.removeprefix("mjWARN_"): int(data.warning[i].number)
        for i in range(int(mujoco.mjtWarning.mjNWARNING))
        if data.warning[i].number
    }
    if not result.problems:
        result.problems += [
            f"expected a simulation that MuJoCo does not warn of, got {name} {count} times within"
            f" {SECONDS:g} s" + (f" ({warned[0]})" if warned else "")
            for name, count in counted.items()
        ]
        result.problems += _oscillating(plant.driven_joints, np.array(efforts))
    return result


def _divergence(plant: Plant) -> str | None:
    """Return how the state has diverged; None: it has not."""
    found = plant.divergence(MAX_SPEED)
    if found is None:
        return None
    return (
        f"expected a default pose that can be simulated for {SECONDS:g} s, got {found} after"
        f" {plant.data.time:.3g} s; check its masses, its gains and the timestep"
    )


def _oscillating(names: list[str], efforts: FloatArray) -> list[str]:
    """List the joints whose drive oscillates; efforts of shape (steps, n) [N m or N]."""
    if efforts.size == 0:
        return []
    flips = efforts[1:] * efforts[:-1] < 0
    flips &= np.abs(efforts[1:]) > MIN_EFFORT * np.abs(efforts).max(axis=0) + 1e-6
    share = flips.mean(axis=0)
    return [
        f"joint {name}: expected a drive that holds still, got an effort that changes its sign at"
        f" {part:.0%} of the simulation steps; lower its gains or the timestep"
        for name, part in zip(names, share.tolist(), strict=True)
        if part > MAX_FLIPS
    ]
