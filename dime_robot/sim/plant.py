"""Plant: the simulated robot. A JointCommand goes in, a RobotState comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mujoco
import numpy as np

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.spec import FloatArray, PolicySpec
from dime_robot.runtime.state import JointCommand, RobotState
from dime_robot.sim.config import SimConfig


def load_model(path: Path, timestep: float) -> mujoco.MjModel:
    """Compile an MJCF file with the configured time step [s].

    Raises:
        InputError: the file is missing or MuJoCo refuses it.
    """
    try:
        model = mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise InputError(f"{path}: MuJoCo cannot load it: {' '.join(str(error).split())}") from None
    model.opt.timestep = timestep
    return model


class Plant:
    """A MuJoCo model addressed by the contract's joint names.

    Args:
        spec: joints in policy order.
        sim: simulation settings.
        model_path: MJCF file.

    Raises:
        InputError: a joint of the contract is missing in the model, has no motor though it is
            commanded, or the model's stops or force limit differ from the contract's.
    """

    def __init__(self, spec: PolicySpec, sim: SimConfig, model_path: Path) -> None:
        self.model = load_model(model_path, sim.timestep)
        self.data = mujoco.MjData(self.model)
        self._decimation = sim.decimation
        joint_ids = {}
        for joint in spec.joints:
            joint_id = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_JOINT, joint.name)
            if joint_id < 0:
                names = [self.model.joint(i).name for i in range(self.model.njnt)]
                raise InputError(f"{model_path}: expected a joint {joint.name}, got {names}")
            limited = bool(self.model.jnt_limited[joint_id])
            limits = tuple(self.model.jnt_range[joint_id].tolist()) if limited else None
            if limits != joint.position_limits:
                raise InputError(
                    f"{model_path}: joint {joint.name}: expected position limits"
                    f" {joint.position_limits} as in the contract, got {limits}"
                )
            joint_ids[joint.name] = joint_id
        self._qpos = np.array([self.model.jnt_qposadr[i] for i in joint_ids.values()])
        self._qvel = np.array([self.model.jnt_dofadr[i] for i in joint_ids.values()])
        self._index = {name: i for i, name in enumerate(joint_ids)}
        self._kind, self._joints = spec.action.kind, spec.action_joints
        self._motors = np.array(
            [self._motor_of(name, joint_ids, spec, model_path) for name in spec.action_joints],
            dtype=np.intp,
        )
        self._command: FloatArray = np.zeros(len(self._motors))
        self._gains(spec)
        self._imu = -1
        if sim.imu is not None:
            self._imu = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_BODY, sim.imu)
            if self._imu < 0:
                names = [self.model.body(i).name for i in range(1, self.model.nbody)]
                raise InputError(
                    f"{model_path}: sim.imu: expected a body of {names}, got {sim.imu}"
                )

    def _gains(self, spec: PolicySpec) -> None:
        """The position loop of a real drive, for position actions."""
        if self._kind != "position":
            return
        joints = [spec.joint(name) for name in spec.action_joints]
        self._stiffness = np.array([joint.stiffness or 0.0 for joint in joints])
        self._damping = np.array([joint.damping or 0.0 for joint in joints])
        self._driven = np.array([self._index[joint.name] for joint in joints])

    def _motor_of(self, name: str, joints: dict[str, int], spec: PolicySpec, path: Path) -> int:
        """The actuator that a command of this name drives."""
        if self._kind == "twist":  # a base whose model has one velocity actuator per axis
            actuator = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_ACTUATOR, name)
            if actuator < 0:
                raise InputError(f"{path}: expected an actuator {name}, got none")
            return int(actuator)
        limit = spec.joint(name).effort_limit
        for actuator in range(self.model.nu):
            if self.model.actuator_trnid[actuator, 0] == joints[name]:
                got = self.model.actuator_ctrlrange[actuator]
                if limit is None or not np.allclose(got, [-limit, limit]):
                    raise InputError(
                        f"{path}: motor of {name}: expected ctrlrange [{-(limit or 0)},"
                        f" {limit}] as in the contract, got {got.tolist()}"
                    )
                return actuator
        raise InputError(f"{path}: expected a motor on joint {name}, got none")

    def reset(self, positions: Mapping[str, float]) -> RobotState:
        """Put the robot at rest at these joint positions [rad or m]."""
        mujoco.mj_resetData(self.model, self.data)
        for name, position in positions.items():
            self.data.qpos[self._qpos[self._index[name]]] = position
        mujoco.mj_forward(self.model, self.data)
        self._command = np.zeros(len(self._motors))
        if self._kind == "position":
            self._command[:] = self.data.qpos[self._qpos[self._driven]]
        return self.state()

    def step(self, command: JointCommand) -> RobotState:
        """Hold the command for one control period."""
        self.command(command)
        self.advance(self._decimation)
        return self.state()

    def command(self, command: JointCommand) -> None:
        """What the motors follow from now on."""
        if command.kind != self._kind or command.joints != self._joints:
            raise ValueError(
                f"expected a command of {self._kind} for {self._joints}, got {command.kind} for"
                f" {command.joints}"
            )
        self._command = command.value.copy()

    def advance(self, steps: int) -> None:
        """Some simulation steps."""
        if self._kind != "position":
            self.data.ctrl[self._motors] = self._command
            mujoco.mj_step(self.model, self.data, nstep=steps)
            return
        position, velocity = self._qpos[self._driven], self._qvel[self._driven]
        for _ in range(steps):
            error = self._command - self.data.qpos[position]
            self.data.ctrl[self._motors] = (
                self._stiffness * error - self._damping * self.data.qvel[velocity]
            )
            mujoco.mj_step(self.model, self.data)

    def state(self) -> RobotState:
        """The current reading; its arrays are copies."""
        orientation = angular_velocity = None
        if self._imu >= 0:
            # mj_step leaves these at the step before the positions
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_comVel(self.model, self.data)
            orientation = self.data.xquat[self._imu].copy()
            motion = np.zeros(6)  # in the body's own frame: not that of its inertia, mjOBJ_BODY
            mujoco.mj_objectVelocity(
                self.model, self.data, mujoco.mjtObj.mjOBJ_XBODY, self._imu, motion, 1
            )
            angular_velocity = motion[:3]
        return RobotState(
            stamp=float(self.data.time),
            joint_position=self.data.qpos[self._qpos],
            joint_velocity=self.data.qvel[self._qvel],
            orientation=orientation,
            angular_velocity=angular_velocity,
        )
