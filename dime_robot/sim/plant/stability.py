"""Stability of joint drives at a simulation step, checked before anything moves.

Let x be the position errors of the driven joints, M their inertia (the rest of the robot free to
move, plus h times the passive damping, which MuJoCo integrates implicitly), K and D the gains and h
the step. Near a pose, one step of the semi-implicit Euler method is

    explicit   M (x+ - 2 x + x-) + h D (x  - x-) + h^2 K x = 0     stable: 2 h D + h^2 K < 4 M
    implicit   M (x+ - 2 x + x-) + h D (x+ - x ) + h^2 K x = 0     stable: h^2 K < 4 M + 2 h D

as an inequality of symmetric matrices, which is exact. Contacts and stops are ignored.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import FloatArray

Indices: TypeAlias = npt.NDArray[np.intp]
POSES = 32  # random ones besides the default pose, since the inertia depends on the pose
RANGE = 3.0  # of a joint without stops, around its default [rad or m]
SEED = 5
BISECTIONS = 40


class Unstable(NamedTuple):
    """A joint whose drive is unstable."""

    row: int  # among the driven joints
    inertia: float  # of the joint, the rest of the robot free to move [kg m^2 or kg]
    largest: float  # stable gain: damping (explicit) or stiffness (implicit)


def unstable(
    model: mujoco.MjModel,
    pose: FloatArray,
    dofs: Indices,
    gains: tuple[FloatArray, FloatArray],
    implicit: bool,
) -> list[Unstable]:
    """List the joints whose gains are too large for the model's time step.

    Args:
        model: its joints have passive damping only.
        pose: default pose of the whole model, shape (nq,).
        dofs: of the driven joints, shape (n,).
        gains: stiffness and damping, shapes (n,) [N m/rad or N/m], [N m s/rad or N s/m].
        implicit: the kind of integration.
    """
    step = float(model.opt.timestep)
    stiffness, damping = gains
    data = mujoco.MjData(model)
    worst, found = 4.0, []
    for each in _poses(model, pose, dofs):
        data.qpos[:] = each
        inertia = _inertia(model, data, dofs)
        if inertia is None:  # a singular inertia is reported by the check of the model
            continue
        if implicit:
            inertia = inertia + np.diag(step * damping / 2)
            load = step**2 * stiffness
        else:
            load = 2 * step * damping + step**2 * stiffness
        mobility = np.linalg.inv(inertia)
        largest = _max_eigenvalue(mobility, load)
        if not largest <= worst:
            worst = largest
            found = _offenders(mobility, load, gains, step, implicit)
    return found


def _poses(model: mujoco.MjModel, pose: FloatArray, dofs: Indices) -> list[FloatArray]:
    """Return the default pose and random ones within the stops, from a fixed seed."""
    random = np.random.default_rng(SEED)
    poses = [pose]
    for _ in range(POSES):
        other = pose.copy()
        for dof in dofs:
            joint = int(model.dof_jntid[dof])
            index = int(model.jnt_qposadr[joint])
            low, high = model.jnt_range[joint]
            if not model.jnt_limited[joint]:
                low, high = other[index] - RANGE, other[index] + RANGE
            other[index] = random.uniform(low, high)
        poses.append(other)
    return poses


def _inertia(model: mujoco.MjModel, data: mujoco.MjData, dofs: Indices) -> FloatArray | None:
    """Return the inertia of the driven joints plus h times the damping, shape (n, n)."""
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_makeM(model, data)
    full = np.zeros((model.nv, model.nv))
    mujoco.mj_fullM(model, data, full)
    full += np.diag(model.opt.timestep * np.maximum(model.dof_damping, 0.0))
    try:
        mobility = np.linalg.inv(full)[np.ix_(dofs, dofs)]
        inertia: FloatArray = np.linalg.inv(mobility)
    except np.linalg.LinAlgError:
        return None
    return inertia if np.isfinite(inertia).all() else None


def _max_eigenvalue(mobility: FloatArray, load: FloatArray) -> float:
    """Return the largest eigenvalue of inertia^-1 * load; below 4 the drives are stable."""
    root = np.sqrt(load)
    return float(np.linalg.eigvalsh(root[:, None] * mobility * root).max())


def _offenders(
    mobility: FloatArray,
    load: FloatArray,
    gains: tuple[FloatArray, FloatArray],
    step: float,
    implicit: bool,
) -> list[Unstable]:
    """List the joints whose load exceeds the largest stable ratio to their inertia.

    That ratio, common to all joints, is found by bisection: loads above it are reduced to it.
    """
    alone = 1 / np.diag(mobility)
    low, high = 0.0, 4.0
    for _ in range(BISECTIONS):
        share = (low + high) / 2
        stable = _max_eigenvalue(mobility, np.minimum(load, share * alone)) < 4.0
        low, high = (share, high) if stable else (low, share)
    found = []
    stiffness, damping = gains
    for row in np.flatnonzero(load > low * alone).tolist():
        capped = low * float(alone[row])
        if implicit:
            inertia, largest = float(alone[row] - step * damping[row] / 2), capped / step**2
        else:
            inertia = float(alone[row])
            largest = (capped - step**2 * float(stiffness[row])) / (2 * step)
        found.append(Unstable(row, inertia, largest))
    return found
