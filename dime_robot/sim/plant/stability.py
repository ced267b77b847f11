"""Which joints' drives oscillate ever more at a simulation step: found before anything moves.

With the position error x of the driven joints, their inertia M (everything else free to follow,
h times the passive damping added, which MuJoCo integrates implicitly), gains K and D and a step h,
one step of the semi-implicit Euler method is, near a pose,

    explicit   M (x+ - 2 x + x-) + h D (x  - x-) + h^2 K x = 0     stable: 2 h D + h^2 K < 4 M
    implicit   M (x+ - 2 x + x-) + h D (x+ - x ) + h^2 K x = 0     stable: h^2 K < 4 M + 2 h D

in the sense of symmetric matrices, which is exact. Contacts and stops are left out.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import FloatArray

Places: TypeAlias = npt.NDArray[np.intp]
POSES = 32  # tried beside the default pose, as inertia changes with it
RANGE = 3.0  # of the poses of a joint without stops, around its default [rad or m]
SEED = 5
PRECISION = 40  # halvings


class Unstable(NamedTuple):
    """A joint whose drive a simulation step cannot follow."""

    row: int  # of the drives' joints
    inertia: float  # that the drive feels, the rest of the robot following [kg m^2 or kg]
    largest: float  # gain that is still stable: damping (explicit), stiffness (implicit)


def unstable(
    model: mujoco.MjModel,
    pose: FloatArray,
    dofs: Places,
    gains: tuple[FloatArray, FloatArray],
    implicit: bool,
) -> list[Unstable]:
    """Joints whose gains are too large for the model's time step; none: the drives are stable.

    Args:
        model: with the damping of its joints alone.
        pose: of the whole model, shape (nq,); around it others are tried.
        dofs: of the driven joints, shape (n,).
        gains: stiffness and damping, shapes (n,) [N m/rad or N/m], [N m s/rad or N s/m].
        implicit: the kind of drive.
    """
    step = float(model.opt.timestep)
    stiffness, damping = gains
    data = mujoco.MjData(model)
    worst, found = 4.0, []
    for each in _poses(model, pose, dofs):
        data.qpos[:] = each
        inertia = _inertia(model, data, dofs)
        if inertia is None:  # nothing that moves has no inertia: the check of the model says so
            continue
        if implicit:
            inertia = inertia + np.diag(step * damping / 2)
            load = step**2 * stiffness
        else:
            load = 2 * step * damping + step**2 * stiffness
        mobility = np.linalg.inv(inertia)
        largest = _largest(mobility, load)
        if not largest <= worst:
            worst = largest
            found = _offenders(mobility, load, gains, step, implicit)
    return found


def _poses(model: mujoco.MjModel, pose: FloatArray, dofs: Places) -> list[FloatArray]:
    """The default pose, and others within the stops; always the same ones."""
    random = np.random.default_rng(SEED)
    poses = [pose]
    for _ in range(POSES):
        other = pose.copy()
        for dof in dofs:
            joint = int(model.dof_jntid[dof])
            place = int(model.jnt_qposadr[joint])
            low, high = model.jnt_range[joint]
            if not model.jnt_limited[joint]:
                low, high = other[place] - RANGE, other[place] + RANGE
            other[place] = random.uniform(low, high)
        poses.append(other)
    return poses


def _inertia(model: mujoco.MjModel, data: mujoco.MjData, dofs: Places) -> FloatArray | None:
    """Inertia of the driven joints, shape (n, n), with h times the passive damping on it."""
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


def _largest(mobility: FloatArray, load: FloatArray) -> float:
    """Largest eigenvalue of the load against the inertia; below 4 it is stable."""
    root = np.sqrt(load)
    return float(np.linalg.eigvalsh(root[:, None] * mobility * root).max())


def _offenders(
    mobility: FloatArray,
    load: FloatArray,
    gains: tuple[FloatArray, FloatArray],
    step: float,
    implicit: bool,
) -> list[Unstable]:
    """Cap all joints' loads, as shares of their inertias, at the largest common stable share."""
    alone = 1 / np.diag(mobility)
    low, high = 0.0, 4.0
    for _ in range(PRECISION):
        share = (low + high) / 2
        stable = _largest(mobility, np.minimum(load, share * alone)) < 4.0
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
