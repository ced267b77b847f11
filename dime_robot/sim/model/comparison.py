"""Differences of two models of a robot: masses, passive joint dynamics, axes, friction."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.sim.model.actuators import actuator_count
from dime_robot.sim.model.loading import load_model, root_of

MAX_ANGLE = 5.0  # between axes that count as equal [degrees]
TOLERANCE = 1e-3  # relative, of values that count as equal


def model_differences(ours: Path, theirs: Path, spec: PolicySpec) -> list[str]:
    """List the differences of two models, a line each with the largest difference.

    Args:
        ours: the configuration's model, MJCF.
        theirs: the other one; both fit the contract.
        spec: its joints are compared, by name.

    Returns:
        For instance `joint damping 0.1 -> 2 N m s/rad or N s/m at FL_hip_joint, 12 of 12 joints
        differ`.

    Raises:
        InputError: a file is missing or MuJoCo refuses it.
    """
    first, second = _Robot(ours, spec), _Robot(theirs, spec)
    lines = []
    if not np.isclose(first.mass, second.mass, rtol=TOLERANCE):
        lines.append(f"mass of the robot {first.mass:.4g} -> {second.mass:.4g} kg")
    names = [joint.name for joint in spec.joints]
    for quantity, (unit, values) in first.by_joint.items():
        others = second.by_joint[quantity][1]
        differs = ~np.isclose(values, others, rtol=TOLERANCE, atol=1e-9)
        if not differs.any():
            continue
        worst = int(np.argmax(np.abs(others - values)))
        lines.append(
            f"{quantity} {values[worst]:.4g} -> {others[worst]:.4g} {unit} at {names[worst]},"
            f" {np.count_nonzero(differs)} of {len(names)} joints differ"
        )
    # in the base's frame, at the models' zero position
    between = np.degrees(np.arccos(np.clip((first.axes * second.axes).sum(axis=1), -1.0, 1.0)))
    if between.max(initial=0.0) > MAX_ANGLE:
        worst = int(np.argmax(between))
        lines.append(
            f"axis of {names[worst]} turned by {between[worst]:.0f} degrees,"
            f" {np.count_nonzero(between > MAX_ANGLE)} of {len(names)} joints differ"
        )
    if not np.allclose(first.gravity, second.gravity, rtol=TOLERANCE):
        lines.append(f"gravity {first.gravity.tolist()} -> {second.gravity.tolist()} m/s^2")
    for what, values in first.friction.items():
        others = second.friction[what]
        if not np.allclose(values, others, rtol=TOLERANCE):
            lines.append(
                f"sliding friction of {what} {_range(values)} -> {_range(others)} (lowest to"
                " highest of its geoms that touch)"
            )
    return lines


class _Robot:
    """The compared values of one model."""

    def __init__(self, path: Path, spec: PolicySpec) -> None:
        model = load_model(path, 0.001)
        joints = [model.joint(joint.name).id for joint in spec.joints]
        root = root_of(model, joints)
        dofs = model.jnt_dofadr[joints]
        of_joint = "N m s/rad or N s/m"
        self.mass = float(model.body_subtreemass[root])  # [kg]
        self.by_joint: dict[str, tuple[str, FloatArray]] = {
            "joint damping": (of_joint, model.dof_damping[dofs] + _added(model, "damping", joints)),
            "friction loss": ("N m or N", model.dof_frictionloss[dofs]),
            "armature": (
                "kg m^2 or kg",
                model.dof_armature[dofs] + _added(model, "armature", joints),
            ),
            "spring": ("N m/rad or N/m", model.jnt_stiffness[joints]),
            "mass of the link": ("kg", model.body_mass[model.jnt_bodyid[joints]]),
        }
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        base = data.xmat[root].reshape(3, 3)
        self.axes: FloatArray = data.xaxis[joints] @ base  # of the joints, shape (n_joints, 3)
        self.gravity: FloatArray = model.opt.gravity.copy()  # shape (3,) [m/s^2]
        touches = (model.geom_contype | model.geom_conaffinity) != 0
        own = model.body_rootid[model.geom_bodyid] == root
        self.friction = {  # shape (2,): lowest and highest [1]
            "the robot": _extremes(model.geom_friction[touches & own, 0]),
            "the rest of the world": _extremes(model.geom_friction[touches & ~own, 0]),
        }


def _added(model: mujoco.MjModel, quantity: str, joints: list[int]) -> FloatArray:
    """Return what actuators add to a passive quantity of joints, shape (n_joints,)."""
    added = np.zeros(len(joints))
    for actuator in range(actuator_count(model)):
        joint = int(model.actuator_trnid[actuator, 0])
        if model.actuator_trntype[actuator] == mujoco.mjtTrn.mjTRN_JOINT and joint in joints:
            value = getattr(model, f"actuator_{quantity}")[actuator]
            added[joints.index(joint)] += value * model.actuator_gear[actuator, 0] ** 2
    return added


def _extremes(values: FloatArray) -> FloatArray:
    return np.array([values.min(), values.max()]) if len(values) else np.zeros(2)


def _range(values: FloatArray) -> str:
    return f"{values[0]:.3g} to {values[1]:.3g}" if values[0] != values[1] else f"{values[0]:.3g}"
