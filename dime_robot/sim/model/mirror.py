"""Whether a model is its own mirror image, as the section `symmetry:` says: at random states."""

from __future__ import annotations

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.sim.config.robot_task import SimConfig
from dime_robot.sim.config.symmetry import PSEUDO_VECTOR, VECTOR, SymmetryConfig
from dime_robot.sim.model.fit import Fit
from dime_robot.sim.model.loading import joint_name, joints_below

STATES, SEED = 8, 3
RANGE = 1.0  # of a joint without stops, around 0 [rad or m]
POSITION = 2e-3  # between a body and its mirror image [m]; a real robot's files are not exact
RELATIVE = 0.01  # of masses and energies
QUATERNION = (1.0, -1.0, 1.0, -1.0)  # w x y z: its vector part is a pseudo-vector
OF_JOINTS = (  # of a model's degrees of freedom, with their units
    ("dof_armature", "armature"),
    ("dof_damping", "damping"),
    ("dof_frictionloss", "friction loss"),
)


def asymmetry(
    model: mujoco.MjModel, spec: PolicySpec, sim: SimConfig, symmetry: SymmetryConfig
) -> str | None:
    """Return the first way in which a model is not its own mirror image; None: it is.

    Args:
        model: that fits the contract.
        spec: the contract.
        sim: simulation settings.
        symmetry: which joints are partners.
    """
    fit = Fit(model, spec, sim)
    assert fit.root is not None
    joints = [j for j in joints_below(model, fit.root) if j != fit.free_joint]
    names, partners = {joint_name(model, j): j for j in joints}, symmetry.partners()
    for name in names:
        other = partners.get(name, (None, 1))[0]
        if other not in names:
            return (
                f"symmetry.joints: expected a partner of joint {name}, which the model has, got"
                f" {other}"
            )
    pairs = [(j, names[partners[name][0]], partners[name][1]) for name, j in names.items()]
    return _unequal_joints(model, pairs) or _unequal_states(model, fit, pairs)


Pairs = list[tuple[int, int, int]]  # joint, its partner, the sign


class Reflection:
    """Puts a model into the mirror image of a state.

    Args:
        model: that fits the contract, and is its own mirror image.
        spec: the contract.
        sim: simulation settings.
        symmetry: which joints are partners.
    """

    def __init__(
        self, model: mujoco.MjModel, spec: PolicySpec, sim: SimConfig, symmetry: SymmetryConfig
    ) -> None:
        self._model, self._fit = model, Fit(model, spec, sim)
        assert self._fit.root is not None
        partners = symmetry.partners()
        joints = [j for j in joints_below(model, self._fit.root) if j != self._fit.free_joint]
        names = {joint_name(model, j): j for j in joints}
        self._pairs = [
            (j, names[partners[name][0]], partners[name][1]) for name, j in names.items()
        ]

    def apply(self, data: mujoco.MjData, image: mujoco.MjData) -> None:
        """Write the mirror image of the state in `data` into `image`; other bodies stand still."""
        velocities = data.qvel.copy()  # which are set to 0 for the other bodies
        _reflect(self._model, data, image, self._fit, self._pairs)
        data.qvel[:] = velocities


def _unequal_joints(model: mujoco.MjModel, pairs: Pairs) -> str | None:
    for joint, other, _ in pairs:
        name, partner = joint_name(model, joint), joint_name(model, other)
        for field, what in OF_JOINTS:
            values = getattr(model, field)
            mine, its = (float(values[model.jnt_dofadr[j]]) for j in (joint, other))
            if not np.isclose(mine, its, rtol=RELATIVE):
                return (
                    f"symmetry: expected joint {partner} with the {what} of {name}, {mine:g}, got"
                    f" {its:g}"
                )
    for joint, other, _ in reversed(pairs):  # from the ends on, to name the link that differs
        name, partner = joint_name(model, joint), joint_name(model, other)
        mine, its = (float(model.body_subtreemass[model.jnt_bodyid[j]]) for j in (joint, other))
        if not np.isclose(mine, its, rtol=RELATIVE):
            return (
                f"symmetry: expected the same mass behind {partner} as behind {name}, {mine:.4g}"
                f" kg, got {its:.4g} kg"
            )
    return None


def _unequal_states(model: mujoco.MjModel, fit: Fit, pairs: Pairs) -> str | None:
    random = np.random.default_rng(SEED)
    data, image = mujoco.MjData(model), mujoco.MjData(model)
    for _ in range(STATES):
        _draw(model, data, fit, pairs, random)
        _reflect(model, data, image, fit, pairs)
        for each in (data, image):
            mujoco.mj_fwdPosition(model, each)
            mujoco.mj_fwdVelocity(model, each)
            mujoco.mj_energyPos(model, each)
            mujoco.mj_energyVel(model, each)
        # the link itself, to name the joint that differs, then with all that is fixed to it
        for field in ("xipos", "subtree_com"):
            for joint, other, _ in pairs:
                expected = _behind(model, data, fit, joint, field) * VECTOR
                got = _behind(model, image, fit, other, field)
                if np.abs(expected - got).max() > POSITION:
                    name, partner = joint_name(model, joint), joint_name(model, other)
                    return (
                        f"symmetry.joints.{name}: expected what {partner} moves at"
                        f" {_text(expected)} m in the base's frame, the mirror image of what {name}"
                        f" moves, got {_text(got)} m: check the sign, the partner, and the model's"
                        " masses"
                    )
        for kind, what in enumerate(("potential", "kinetic")):
            mine, its = data.energy[kind], image.energy[kind]
            scale = max(abs(mine), abs(data.energy[1]))
            if abs(mine - its) > RELATIVE * scale:
                return (
                    f"symmetry: expected the {what} energy of a mirrored state, {mine:.4g} J, got"
                    f" {its:.4g} J: the model's masses or inertias are not symmetric"
                )
    return None


def _draw(
    model: mujoco.MjModel,
    data: mujoco.MjData,
    fit: Fit,
    pairs: Pairs,
    random: np.random.Generator,
) -> None:
    """Set a random state of a robot whose base is level in the world's xz-plane, but moves."""
    data.qpos[:] = model.qpos0
    data.qvel[:] = random.normal(0.0, 1.0, model.nv)
    for joint, _, _ in pairs:
        low, high = model.jnt_range[joint] if model.jnt_limited[joint] else (-RANGE, RANGE)
        data.qpos[model.jnt_qposadr[joint]] = random.uniform(low, high)
    if fit.free_joint is not None:
        start = model.jnt_qposadr[fit.free_joint]
        quaternion = random.normal(0.0, 1.0, 4)
        data.qpos[start : start + 2] = random.normal(0.0, 1.0, 2)
        data.qpos[start + 3 : start + 7] = quaternion / np.linalg.norm(quaternion)


def _reflect(
    model: mujoco.MjModel, data: mujoco.MjData, image: mujoco.MjData, fit: Fit, pairs: Pairs
) -> None:
    """Set the mirror image of a state."""
    image.qpos[:], image.qvel[:] = data.qpos, 0.0
    for joint, other, sign in pairs:
        source, goal = model.jnt_qposadr[joint], model.jnt_qposadr[other]
        image.qpos[goal] = sign * data.qpos[source]
        image.qvel[model.jnt_dofadr[other]] = sign * data.qvel[model.jnt_dofadr[joint]]
    others = set(range(model.nv)) - {int(model.jnt_dofadr[joint]) for joint, _, _ in pairs}
    if fit.free_joint is not None:
        start, dof = model.jnt_qposadr[fit.free_joint], int(model.jnt_dofadr[fit.free_joint])
        image.qpos[start : start + 3] *= VECTOR
        image.qpos[start + 3 : start + 7] *= QUATERNION
        image.qvel[dof : dof + 3] = data.qvel[dof : dof + 3] * VECTOR
        image.qvel[dof + 3 : dof + 6] = data.qvel[dof + 3 : dof + 6] * PSEUDO_VECTOR
        others -= set(range(dof, dof + 6))
    for dof in others:  # of other bodies of the world, which stand
        data.qvel[dof] = 0.0


def _behind(
    model: mujoco.MjModel, data: mujoco.MjData, fit: Fit, joint: int, field: str
) -> FloatArray:
    """Return the centre of mass of what a joint moves, in the base's frame, shape (3,) [m].

    Args:
        model: the model.
        data: its state.
        fit: has the base.
        joint: that moves it.
        field: xipos: of its link; subtree_com: of all that it moves.
    """
    assert fit.root is not None
    offset = getattr(data, field)[model.jnt_bodyid[joint]] - data.xpos[fit.root]
    base: FloatArray = data.xmat[fit.root].reshape(3, 3).T @ offset
    return base


def _text(vector: FloatArray) -> str:
    return f"({', '.join(f'{value:.3f}' for value in vector)})"
