"""Does the simulated robot hold its default pose? Two seconds of it, before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.model.loading import joint_name, mujoco_warnings
from dime_robot.sim.plant.plant import Plant

SECONDS = 2.0  # simulated
SETTLED = 0.5  # [s] at the end, which is judged
BOUND = 0.05  # largest error of a joint then, with the base held [rad or m]
FASTEST = 1000.0  # of any coordinate: more is an explosion [rad/s or m/s]
SHAKING = 0.3  # share of steps at which an effort may change its sign
NOTICED = 0.1  # share of the largest effort, below which a change of sign does not count
NUDGE = 0.01  # first speed of the contract's joints: an upright pole shall fall [rad/s or m/s]
HEAVY = 1e6  # inertia that holds a free base where it is [kg, kg m^2]


@dataclass
class Held:
    """What two seconds in the default pose came to."""

    problems: list[str] = field(default_factory=list)  # one phrase each
    error: float = 0.0  # largest in the last half second, of joints with a target [rad or m]
    joint: str = ""  # whose; empty: no joint has a target
    moved: float = 0.0  # farthest that any joint of the contract went [rad or m]
    mover: str = ""  # which


def hold_default_pose(make: Callable[[], Plant], height: float | None) -> Held:
    """Simulate the default pose and look.

    A robot with a free base is looked at twice: as it stands (or falls), where only the numbers
    have to stay finite, and hung up by its base without contacts, where every joint with a target
    has to stay within `BOUND` of it.

    Args:
        make: builds the robot; called once or twice.
        height: of a free base [m]; None: as the model has it.

    Returns:
        What was seen; of a robot with a free base, errors are those of the robot hung up.
    """
    plant = make()
    result = _simulate(plant, height)
    if plant.has_free_base and not result.problems:
        hung = make()
        _hang(hung)
        standing = result
        result = _simulate(hung, height)
        result.moved, result.mover = standing.moved, standing.mover
    if result.joint and not result.error <= BOUND and not result.problems:
        hung_up = " hung up by its base" if plant.has_free_base else ""
        result.problems.append(
            f"joint {result.joint}: expected at most {BOUND:g} rad or m between its default"
            f" position and where its drive holds it{hung_up}, got {result.error:.3g} after"
            f" {SECONDS:g} s; raise its stiffness or its effort limit"
        )
    return result


def _hang(plant: Plant) -> None:
    """Hold a free base where it is, and let nothing touch the robot."""
    free = plant.free_joint
    assert free is not None
    start = int(plant.model.jnt_dofadr[free])
    plant.model.dof_armature[start : start + 6] += HEAVY
    plant.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT


def _simulate(plant: Plant, height: float | None) -> Held:
    model, data = plant.model, plant.data
    result = Held()
    names = list(plant.default_pose)
    with mujoco_warnings() as said:
        plant.reset(plant.default_pose, height)
        start = plant.positions(names)
        data.qvel[plant.dofs] = NUDGE
        steps = round(SECONDS / model.opt.timestep)
        judged = round((SECONDS - SETTLED) / model.opt.timestep)
        efforts: list[FloatArray] = []
        for step in range(steps):
            plant.advance(1)
            fault = _explosion(model, data)
            if fault is not None:
                result.problems.append(fault)
                break
            if step >= judged:
                efforts.append(plant.efforts())
                for name, error in plant.pose_errors().items():
                    if not result.joint or error > result.error:
                        result.error, result.joint = error, name
        moved = np.abs(plant.positions(names) - start)
    if names:
        result.moved, result.mover = float(moved.max()), names[int(moved.argmax())]
    counted = {
        mujoco.mjtWarning(i).name.removeprefix("mjWARN_"): int(data.warning[i].number)
        for i in range(int(mujoco.mjtWarning.mjNWARNING))
        if data.warning[i].number
    }
    if not result.problems:
        result.problems += [
            f"expected a simulation that MuJoCo does not warn of, got {name} {count} times within"
            f" {SECONDS:g} s" + (f" ({said[0]})" if said else "")
            for name, count in counted.items()
        ]
        result.problems += _shaking(plant.driven_joints, np.array(efforts))
    return result


def _explosion(model: mujoco.MjModel, data: mujoco.MjData) -> str | None:
    """What is wrong with the numbers of a state; None: nothing."""
    wild: npt.NDArray[np.bool_] = ~(np.abs(data.qvel) <= FASTEST)
    if not wild.any() and np.isfinite(data.qpos).all():
        return None
    dof = int(wild.argmax())
    joint = joint_name(model, int(model.dof_jntid[dof]))
    got = f"{data.qvel[dof]:g}" if wild.any() else "positions that are no numbers"
    return (
        f"expected a default pose that can be simulated for {SECONDS:g} s, got a speed of {got}"
        f" rad/s or m/s at {joint} after {data.time:.3g} s; look at its masses, its gains and the"
        " timestep"
    )


def _shaking(names: list[str], efforts: FloatArray) -> list[str]:
    """Joints whose drive pushes to and fro; efforts of shape (steps, n) [N m or N]."""
    if efforts.size == 0:
        return []
    flips = efforts[1:] * efforts[:-1] < 0
    flips &= np.abs(efforts[1:]) > NOTICED * np.abs(efforts).max(axis=0) + 1e-6
    share = flips.mean(axis=0)
    return [
        f"joint {name}: expected a drive that holds still, got an effort that changes its sign at"
        f" {part:.0%} of the simulation steps; lower its gains or the timestep"
        for name, part in zip(names, share.tolist(), strict=True)
        if part > SHAKING
    ]
