"""Loading of MuJoCo models, and finding the robot's joints and bodies in them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mujoco

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.model.mjcf_bounds import require_bounded
from dime_robot.sim.model.soundness import unsound


@contextmanager
def mujoco_warnings() -> Iterator[list[str]]:
    """Collect the warnings that MuJoCo would print and write to MUJOCO_LOG.TXT."""
    collected: list[str] = []
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda text: collected.append(" ".join(str(text).split())))
    try:
        yield collected
    finally:
        mujoco.set_mju_user_warning(before)


def compile_model(path: Path) -> tuple[mujoco.MjModel, list[str]]:
    """Compile an MJCF file.

    Args:
        path: the file.

    Returns:
        The model, and MuJoCo's warnings.

    Raises:
        InputError: the file is missing, MuJoCo refuses it, or it is beyond the bounds of
            `mjcf_bounds`.
    """
    require_bounded(path)
    try:
        with mujoco_warnings() as warned:
            model = mujoco.MjModel.from_xml_path(str(path))
    except (ValueError, RuntimeError, mujoco.FatalError, mujoco.UnexpectedError) as error:
        raise InputError(f"{path}: MuJoCo cannot load it: {' '.join(str(error).split())}") from None
    return model, warned


def load_model(path: Path, timestep: float) -> mujoco.MjModel:
    """Compile an MJCF file with the configured time step [s].

    Args:
        path: the file.
        timestep: replaces the model's own [s].

    Raises:
        InputError: the file is missing, MuJoCo refuses it, or it has implausible numbers.

    Warns:
        UserWarning: for each other warning of MuJoCo.
    """
    model, warned = compile_model(path)
    problems = unsound(model, warned)
    if problems:
        raise InputError(f"{path}: {problems[0]}")
    for text in warned:
        warnings.warn(f"{path}: {text}", stacklevel=2)
    model.opt.timestep = timestep
    # a simulation that diverges should show NaN, not reset itself silently
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


def joint_name(model: mujoco.MjModel, joint: int) -> str:
    """Return the name of a joint; its number if it has none."""
    return str(model.joint(joint).name) or f"joint {joint} (which has no name)"


def root_of(model: mujoco.MjModel, joints: Sequence[int]) -> int:
    """Return the root body of these joints: the one below the world.

    Args:
        model: the model.
        joints: numbers of joints, at least one.

    Raises:
        ValueError: they have several.
    """
    roots = {int(model.body_rootid[model.jnt_bodyid[joint]]): joint for joint in joints}
    if len(roots) > 1:
        of_each = ", ".join(
            f"{joint_name(model, joint)} on {model.body(root).name or f'body {root}'}"
            for root, joint in roots.items()
        )
        raise ValueError(
            f"expected all joints of the contract in one robot, below one body of the world, got"
            f" {of_each}"
        )
    return next(iter(roots))


def free_joint_of(model: mujoco.MjModel, root: int) -> int | None:
    """Return the free joint of a root body; None: it has none."""
    first = int(model.body_jntadr[root])
    if first < 0 or model.jnt_type[first] != mujoco.mjtJoint.mjJNT_FREE:
        return None
    return first


def joints_below(model: mujoco.MjModel, root: int) -> list[int]:
    """Return all joints of the robot with this root body, except a free joint of its base."""
    return [
        joint
        for joint in range(model.njnt)
        if model.body_rootid[model.jnt_bodyid[joint]] == root
        and model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE
    ]


def base_body(path: Path, spec: PolicySpec) -> str:
    """Return the name of the body that the robot's free joint moves.

    Args:
        path: MJCF file.
        spec: its joints determine which part of the model is the robot.

    Raises:
        InputError: MuJoCo refuses the file, a joint is missing, or the robot has no free joint.
    """
    model = load_model(path, 0.001)
    found = {
        joint.name: mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_JOINT, joint.name)
        for joint in spec.joints
    }
    missing = [name for name, joint in found.items() if joint < 0]
    if missing or not found:
        raise InputError(
            f"{path}: expected the joints of policy {spec.name}, got a model without {missing}"
        )
    try:
        root = root_of(model, list(found.values()))
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if free_joint_of(model, root) is None:
        raise InputError(
            f"{path}: expected a free joint on {model.body(root).name}, the robot's root, got none"
        )
    name = str(model.body(root).name)
    if not name:
        raise InputError(
            f"{path}: expected a name of the body that the robot's free joint moves, got none; give"
            " it one"
        )
    return name
