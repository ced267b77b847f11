"""Lay a simulated robot on the ground, where its phases begin and end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.sim.plant.plant import Plant

# true positions and velocities, shape (n_joints,) each -> command of the motors; None: the last
Damping: TypeAlias = Callable[[FloatArray, FloatArray], JointCommand | None]
CLEARANCE = 1e-3  # [m] of the lowest point above the ground, from which it falls
SETTLING = 1.5  # [s] under damping until it lies still
LIFT = 10.0  # [m] from which the distance to the ground is measured


def lie(
    plant: Plant,
    damping: Damping,
    pose: Mapping[str, float],
    orientation: FloatArray | None = None,
    settling: float = SETTLING,
) -> RobotState:
    """Lay a robot with a free base on the ground, and let it settle under damping.

    Args:
        plant: the robot; one with a fixed base is put into the pose alone.
        damping: its motors' response without commands.
        pose: joint -> position [rad or m].
        orientation: of the base to the world, w x y z, shape (4,); None: level.
        settling: simulated time under damping [s].

    Returns:
        The reading at the end.
    """
    state = plant.reset(pose)
    free = plant.free_joint
    if free is None:
        return state
    model, data = plant.model, plant.data
    start = int(model.jnt_qposadr[free])
    if orientation is not None:
        data.qpos[start + 3 : start + 7] = orientation
    data.qpos[start + 2] = LIFT
    mujoco.mj_forward(model, data)
    data.qpos[start + 2] = LIFT - height_above_ground(plant) + CLEARANCE
    mujoco.mj_forward(model, data)
    for _ in range(round(settling / model.opt.timestep)):
        command = damping(plant.joint_position(), data.qvel[plant.dofs])
        if command is not None:
            plant.command(command)
        plant.advance(1)
    return plant.state()


def height_above_ground(plant: Plant) -> float:
    """Return the distance between the ground and the lowest point of the robot [m].

    Geometries of the world's body are the ground, all others the robot.
    """
    model, data = plant.model, plant.data
    lowest = math.inf
    points = np.zeros(6)
    for ground in range(model.ngeom):
        if model.geom_bodyid[ground] != 0:
            continue
        for geom in range(model.ngeom):
            if model.geom_bodyid[geom] == 0 or not _collide(model, ground, geom):
                continue
            distance = mujoco.mj_geomDistance(model, data, ground, geom, 2 * LIFT, points)
            lowest = min(lowest, distance)
    return lowest if math.isfinite(lowest) else LIFT


def _collide(model: mujoco.MjModel, first: int, second: int) -> bool:
    """Whether two geometries can touch, by their collision bits."""
    return bool(
        model.geom_contype[first] & model.geom_conaffinity[second]
        or model.geom_contype[second] & model.geom_conaffinity[first]
    )
