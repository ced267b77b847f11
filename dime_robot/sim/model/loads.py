"""Loads of joints under a robot's own weight, from which gains and efforts can be guessed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.sim.model.ground import lowest_points
from dime_robot.sim.model.loading import free_joint_of

NO_FORCES = (  # beside weight, springs and what joints give
    mujoco.mjtDisableBit.mjDSBL_CONTACT
    | mujoco.mjtDisableBit.mjDSBL_ACTUATION
    | mujoco.mjtDisableBit.mjDSBL_LIMIT
    | mujoco.mjtDisableBit.mjDSBL_EQUALITY
)


class Load(NamedTuple):
    """What a joint carries [N m or N], and its inertia."""

    hung: float  # in the default pose, with the base held
    standing: float  # in the default pose, on the feet; without feet: as hung
    outstretched: float  # the links behind it, at their largest lever
    on_one_side: float  # the ground's force on the feet behind it, at its largest lever
    inertia: float  # with all other joints locked [kg m^2 or kg]

    @property
    def pose(self) -> float:
        """Largest load in the default pose."""
        return max(self.hung, self.standing)

    @property
    def largest(self) -> float:
        """Largest load in any pose."""
        return max(self.pose, self.outstretched, self.on_one_side)


def joint_loads(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    root: int,
    joints: Sequence[int],
    feet: Sequence[int],
) -> dict[int, Load]:
    """Compute the loads of joints.

    Args:
        model: the model.
        data: with the kinematics of the default pose; its velocities are set to 0.
        root: root body of the robot.
        joints: numbers of its joints.
        feet: bodies on which it stands; fewer than two: it does not.

    Returns:
        Joint -> load; of a ball joint, the load of its first degree of freedom.
    """
    hung = _hung(model, data)
    gravity = float(np.linalg.norm(model.opt.gravity))
    standing, forces = np.zeros(model.nv), {}
    if len(feet) > 1 and free_joint_of(model, root) is not None:
        points = lowest_points(model, data, root)
        share = float(model.body_subtreemass[root]) * gravity / len(feet)
        for foot in feet:
            if foot in points:
                jacobian = np.zeros((3, model.nv))
                mujoco.mj_jac(model, data, jacobian, None, points[foot], foot)
                standing += np.abs(jacobian[2] * share)
                forces[foot] = share, points[foot]
    inertia = np.zeros((model.nv, model.nv))
    mujoco.mj_makeM(model, data)
    mujoco.mj_fullM(model, data, inertia)
    found = {}
    for joint in joints:
        dof, body = int(model.jnt_dofadr[joint]), int(model.jnt_bodyid[joint])
        slides = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE
        anchor = data.xanchor[joint]
        lever = 1.0 if slides else float(np.linalg.norm(data.subtree_com[body] - anchor))
        weight = float(model.body_subtreemass[body]) * gravity
        sides = [
            share * (1.0 if slides else float(np.linalg.norm(point - anchor)))
            for foot, (share, point) in forces.items()
            if _is_below(model, foot, body)
        ]
        found[joint] = Load(
            hung=float(hung[dof]),
            standing=float(standing[dof]) if forces else float(hung[dof]),
            outstretched=weight * lever,
            on_one_side=max(sides, default=0.0),
            inertia=float(inertia[dof, dof]),
        )
    return found


def _hung(model: mujoco.MjModel, data: mujoco.MjData) -> FloatArray:
    """Return the efforts that hold the pose with the base held, shape (nv,) [N m or N]."""
    flags = model.opt.disableflags
    model.opt.disableflags |= NO_FORCES
    data.qvel[:] = 0.0
    data.qacc[:] = 0.0
    mujoco.mj_inverse(model, data)
    model.opt.disableflags = flags
    efforts: FloatArray = np.abs(data.qfrc_inverse)
    return efforts


def _is_below(model: mujoco.MjModel, body: int, above: int) -> bool:
    while body > 0:
        if body == above:
            return True
        body = int(model.body_parentid[body])
    return False
