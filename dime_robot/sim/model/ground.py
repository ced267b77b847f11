"""Where a robot touches the ground: lowest points of its bodies, and which of them are feet."""

from __future__ import annotations

from itertools import product

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray

CORNERS = np.array(list(product((-1.0, 1.0), repeat=3)))  # of a box
NEAR = 0.02  # height over the lowest point of the robot, below which a body stands on it [m]


def touches_ground(model: mujoco.MjModel) -> bool:
    """Return whether the world has something fixed to stand on."""
    fixed = model.body_weldid[model.geom_bodyid] == 0
    return bool((fixed & _touching(model)).any())


def lowest_points(model: mujoco.MjModel, data: mujoco.MjData, root: int) -> dict[int, FloatArray]:
    """Find the lowest point of each body that can touch something.

    Args:
        model: the model.
        data: with current kinematics.
        root: root body of the robot.

    Returns:
        Body -> the middle of its lowest points, at the height of the lowest, in the world's frame,
        shape (3,) [m]; bodies without such a geom are absent.
    """
    own = (model.body_rootid[model.geom_bodyid] == root) & _touching(model)
    found: dict[int, list[FloatArray]] = {}
    for geom in np.flatnonzero(own).tolist():
        found.setdefault(int(model.geom_bodyid[geom]), []).append(_low_points(model, data, geom))
    lowest = {}
    for body, parts in found.items():
        points = np.concatenate(parts)
        if len(points):
            bottom = points[:, 2].min()
            middle = points[points[:, 2] <= bottom + NEAR].mean(axis=0)
            lowest[body] = np.array([middle[0], middle[1], bottom])
    return lowest


def feet_of(model: mujoco.MjModel, data: mujoco.MjData, root: int) -> list[int]:
    """Return the bodies on which the robot stands, in the model's order.

    A foot is near the lowest point, moves with a joint, and has no body below it that also is.

    Args:
        model: the model.
        data: with current kinematics.
        root: root body of the robot.
    """
    points = lowest_points(model, data, root)
    if not points:
        return []
    ground = min(point[2] for point in points.values())
    near = [body for body, point in points.items() if point[2] <= ground + NEAR]
    above = {parent for body in near for parent in _parents(model, body)}
    weld_of_root = model.body_weldid[root]
    return sorted(
        body for body in near if body not in above and model.body_weldid[body] != weld_of_root
    )


def _touching(model: mujoco.MjModel) -> FloatArray:
    """Return which geoms can touch something, shape (ngeom,)."""
    touching: FloatArray = (model.geom_contype | model.geom_conaffinity) != 0
    return touching


def _parents(model: mujoco.MjModel, body: int) -> list[int]:
    found = []
    while (body := int(model.body_parentid[body])) > 0:
        found.append(body)
    return found


def _low_points(model: mujoco.MjModel, data: mujoco.MjData, geom: int) -> FloatArray:
    """Return points among which is the lowest of a geom, in the world's frame, shape (n, 3) [m]."""
    center, frame = data.geom_xpos[geom], data.geom_xmat[geom].reshape(3, 3)
    size, down = model.geom_size[geom], -frame[2]  # the world's down in the geom's frame
    along = np.array([[0.0, 0.0, -size[1]], [0.0, 0.0, size[1]]])
    match mujoco.mjtGeom(int(model.geom_type[geom])):
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            local = (size[0] * down)[None]
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            local = size[0] * down + along
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            flat = float(np.hypot(*down[:2]))
            rim = size[0] / flat if flat > 1e-9 else 0.0
            local = np.array([down[0] * rim, down[1] * rim, 0.0]) + along
        case mujoco.mjtGeom.mjGEOM_BOX:
            local = CORNERS * size
        case mujoco.mjtGeom.mjGEOM_ELLIPSOID:
            scaled = size * down
            local = (size * scaled / max(1e-12, float(np.linalg.norm(scaled))))[None]
        case mujoco.mjtGeom.mjGEOM_MESH:
            mesh = int(model.geom_dataid[geom])
            start, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
            local = model.mesh_vert[start : start + count]
        case _:  # a plane or a height field has no lowest point
            local = np.zeros((0, 3))
    points: FloatArray = center + local @ frame.T
    return points
