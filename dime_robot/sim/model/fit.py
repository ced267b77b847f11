"""Fit: finds the parts of a contract in a model, and lists everything that does not fit."""

from __future__ import annotations

from collections.abc import Iterable

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import Joint, PolicySpec
from dime_robot.sim.config.robot_task import SimConfig
from dime_robot.sim.model.actuators import MotorSearch, disable_actuators
from dime_robot.sim.model.loading import free_joint_of, joint_name, joints_below, root_of

JOINT_TYPES = {"revolute": mujoco.mjtJoint.mjJNT_HINGE, "prismatic": mujoco.mjtJoint.mjJNT_SLIDE}
LIMITS_TOLERANCE = 1e-4  # [rad or m] between a foreign model's stops and the contract's


class Fit:
    """The contract's parts in a model.

    Args:
        model: the compiled model.
        spec: the contract.
        sim: simulation settings.

    Attributes:
        problems: what does not fit, one phrase each; use the other attributes only if it is empty.
        joints: the contract's joints, shape (n_joints,).
        controls: entries of `data.ctrl` for the action, shape (n_act,); empty for positions.
        held: the contract's held_joints, in their order, shape (n_held,).
        root: the root body of the contract's joints; None: not found.
        free_joint: the free joint of the root body; None: the base is fixed.
        imu: the body with the imu; -1: none.
        feet: the geoms of `sim.feet`, by the names of the feet.
    """

    def __init__(self, model: mujoco.MjModel, spec: PolicySpec, sim: SimConfig) -> None:
        self._model = model
        self.problems: list[str] = []
        found = self._find(joint.name for joint in spec.joints)
        for contract in spec.joints:
            if contract.name in found:
                self._check_joint(found[contract.name], contract)
        motors = MotorSearch(model, spec, found)
        self.problems += motors.problems
        self.controls = motors.controls
        self.joints: npt.NDArray[np.intp] = np.array(list(found.values()), dtype=np.intp)
        held = self._find(spec.held_joints)
        self.held: npt.NDArray[np.intp] = np.array(list(held.values()), dtype=np.intp)
        for name, joint in held.items():
            self._check_held(name, joint, spec.held_joints[name])
        others = [*held.values(), *self._find(sim.free).values()]
        own = sorted({*found.values(), *motors.joints})
        self.root = self._root(own, others) if own else None
        self.free_joint = None if self.root is None else free_joint_of(model, self.root)
        self.imu = self._element("imu", sim.imu)
        if self.imu >= 0 and self.root is not None and model.body_rootid[self.imu] != self.root:
            self.problems.append(f"sim.imu: expected a body of the robot, got {sim.imu}")
        self._element("camera", sim.camera)
        self.feet: dict[str, int] = {}
        for foot, name in sim.feet.items():
            geom = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, name)
            if geom < 0:
                known = [text for i in range(model.ngeom) if (text := model.geom(i).name)]
                self.problems.append(f"sim.feet.{foot}: expected a geom of {known}, got {name}")
            self.feet[foot] = int(geom)
        self._others = set(others)

    def disable_actuators(self) -> None:
        """Disable, in the model, the actuators of joints that are held or free."""
        if self._others:
            disable_actuators(self._model, self._others, set(self.controls.tolist()))

    def _find(self, names: Iterable[str]) -> dict[str, int]:
        """Return the joints of these names that the model has: name -> number."""
        found = {}
        for name in names:
            joint = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_JOINT, name)
            if joint >= 0:
                found[name] = int(joint)
            else:
                known = [joint_name(self._model, i) for i in range(self._model.njnt)]
                self.problems.append(f"expected a joint {name}, got {known}")
        return found

    def _check_joint(self, joint: int, contract: Joint) -> None:
        got = mujoco.mjtJoint(int(self._model.jnt_type[joint]))
        if got != JOINT_TYPES[contract.type]:
            self.problems.append(
                f"joint {contract.name}: expected a {contract.type} joint as in the contract, got"
                f" {got.name.removeprefix('mjJNT_').lower()}"
            )
        limits = self._stops(joint)
        expected = contract.position_limits
        if limits is None or expected is None:
            same = limits is expected
        else:
            same = bool(np.allclose(limits, expected, rtol=0, atol=LIMITS_TOLERANCE))
        if not same:
            self.problems.append(
                f"joint {contract.name}: expected position limits {expected} as in the contract,"
                f" got {limits}"
            )

    def _stops(self, joint: int) -> tuple[float, float] | None:
        if not self._model.jnt_limited[joint]:
            return None
        low, high = self._model.jnt_range[joint].tolist()
        return low, high

    def _check_held(self, name: str, joint: int, position: float) -> None:
        got = mujoco.mjtJoint(int(self._model.jnt_type[joint]))
        if got not in JOINT_TYPES.values():
            self.problems.append(
                f"joint {name} of policy.held_joints: expected a revolute or prismatic joint, got"
                f" {got.name.removeprefix('mjJNT_').lower()}"
            )
        stops = self._stops(joint)
        if stops is not None and not stops[0] <= position <= stops[1]:
            self.problems.append(
                f"joint {name} of policy.held_joints: expected a position in {list(stops)}, its"
                f" stops in the model, got {position:g}"
            )

    def _root(self, own: list[int], others: list[int]) -> int | None:
        """Find the root body of the contract's joints, and check the robot's other joints."""
        try:
            root = root_of(self._model, own)
        except ValueError as error:
            self.problems.append(str(error))
            return None
        below = joints_below(self._model, root)
        left = [joint_name(self._model, j) for j in below if j not in own and j not in others]
        if left:
            self.problems.append(
                "expected every joint of the robot to be in policy.joints, held (sim.hold and"
                f" policy.held_joints) or named as free (sim.free), got {left}, which nothing"
                " holds"
            )
        for joint in others:
            if joint not in below:
                self.problems.append(
                    f"joint {joint_name(self._model, joint)}: expected a joint of the robot in"
                    " sim.hold and sim.free, got one of another body of the world"
                )
        return root

    def _element(self, field: str, name: str | None) -> int:
        """Find the body of an imu, or a camera; -1 for none."""
        if name is None:
            return -1
        model, imu = self._model, field == "imu"
        kind = mujoco.mjtObj.mjOBJ_BODY if imu else mujoco.mjtObj.mjOBJ_CAMERA
        element = mujoco.mj_name2id(model, kind, name)
        if element < 0:
            first, count = (1, model.nbody) if imu else (0, model.ncam)
            names = [mujoco.mj_id2name(model, kind, i) for i in range(first, count)]
            what = "body" if imu else "camera"
            self.problems.append(f"sim.{field}: expected a {what} of {names}, got {name}")
        return int(element)
