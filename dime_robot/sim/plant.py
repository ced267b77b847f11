"""Plant: the simulated robot. A JointCommand goes in, a RobotState comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.observation import projected_gravity
from dime_robot.runtime.spec import FloatArray, PolicySpec
from dime_robot.runtime.state import JointCommand, RobotState
from dime_robot.sim.config import RobotTaskConfig, SimConfig, VelocityTrackingConfig
from dime_robot.sim.drive import PositionDrive

JOINT_TYPES = {"revolute": mujoco.mjtJoint.mjJNT_HINGE, "prismatic": mujoco.mjtJoint.mjJNT_SLIDE}
LIMITS_TOLERANCE = 1e-4  # [rad or m] between a foreign model's stops and the contract's


class BaseMotion(NamedTuple):
    """What a simulator knows of a free base and no robot measures."""

    height: float  # above the world's origin [m]
    velocity: FloatArray  # in the frame that has the base's heading and is level, (3,) [m/s]
    angular_velocity: FloatArray  # in the base's frame, shape (3,) [rad/s]
    gravity: FloatArray  # unit vector in the base's frame, shape (3,)


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
    # a simulation that diverges shall show its NaN, not start over in silence
    model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_AUTORESET
    return model


def base_body(path: Path) -> str:
    """Name of the body that a model's first free joint moves.

    Raises:
        InputError: MuJoCo refuses the file, or the model has no free joint.
    """
    model = load_model(path, 0.001)
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    if not len(free):
        raise InputError(f"{path}: expected a model with a free joint, got none")
    return str(model.body(model.jnt_bodyid[free[0]]).name)


class Plant:
    """A MuJoCo model addressed by the contract's joint names.

    A position drive is computed here, from the contract's gains and limits: whatever actuators the
    model has are switched off. Efforts and twists go through the model's actuators.

    Args:
        spec: joints in policy order.
        sim: simulation settings.
        model_path: MJCF file.
        speed_limits: joint -> largest speed of a position drive [rad/s or m/s].

    Raises:
        InputError: a joint of the contract is missing in the model, has no motor though it takes an
            effort, or the model's stops or force limit differ from the contract's.
    """

    def __init__(
        self,
        spec: PolicySpec,
        sim: SimConfig,
        model_path: Path,
        speed_limits: Mapping[str, float] | None = None,
    ) -> None:
        self.model = load_model(model_path, sim.timestep)
        self.data = mujoco.MjData(self.model)
        self.decimation = sim.decimation
        joint_ids = {joint.name: self._joint_id(joint.name, model_path) for joint in spec.joints}
        for joint in spec.joints:
            self._check_type(joint_ids[joint.name], joint.type, model_path)
            self._check_stops(joint_ids[joint.name], joint.position_limits, model_path)
        self.joint_ids = np.array(list(joint_ids.values()), dtype=np.intp)
        self._qpos, self.dofs = (
            self.model.jnt_qposadr[self.joint_ids],
            self.model.jnt_dofadr[self.joint_ids],
        )
        self._index = {name: i for i, name in enumerate(joint_ids)}
        self._kind, self._joints = spec.action.kind, spec.action_joints
        self.encoder_bias: FloatArray = np.zeros(len(spec.joints))  # reading minus truth [rad or m]
        self.drive: PositionDrive | None = None
        self._motors = np.zeros(0, dtype=np.intp)
        if self._kind == "position":
            order = np.array([self._index[name] for name in self._joints])
            self._driven = (self._qpos[order], self.dofs[order])
            self.drive = PositionDrive(spec, sim.full_torque_speed, speed_limits or {})
            self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ACTUATION
        else:
            motors = [self._motor_of(name, joint_ids, spec, model_path) for name in self._joints]
            self._motors = np.array(motors, dtype=np.intp)
        self._command: FloatArray = np.zeros(len(self._joints))
        free = np.flatnonzero(self.model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
        self._free = int(free[0]) if len(free) else None
        self._imu = self._element("imu", sim.imu, model_path)
        self._element("camera", sim.camera, model_path)
        # of this body a free joint's own coordinates are the reading
        self._imu_is_base = (
            self._free is not None and self.model.jnt_bodyid[self._free] == self._imu
        )

    def _joint_id(self, name: str, path: Path) -> int:
        joint_id = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_JOINT, name)
        if joint_id < 0:
            names = [self.model.joint(i).name for i in range(self.model.njnt)]
            raise InputError(f"{path}: expected a joint {name}, got {names}")
        return int(joint_id)

    def _check_type(self, joint_id: int, expected: str, path: Path) -> None:
        got = mujoco.mjtJoint(int(self.model.jnt_type[joint_id]))
        if got != JOINT_TYPES[expected]:
            raise InputError(
                f"{path}: joint {self.model.joint(joint_id).name}: expected a {expected} joint"
                f" as in the contract, got {got.name.removeprefix('mjJNT_').lower()}"
            )

    def _check_stops(self, joint_id: int, expected: tuple[float, float] | None, path: Path) -> None:
        limited = bool(self.model.jnt_limited[joint_id])
        limits = tuple(self.model.jnt_range[joint_id].tolist()) if limited else None
        if limits is None or expected is None:
            same = limits is expected
        else:
            same = bool(np.allclose(limits, expected, rtol=0, atol=LIMITS_TOLERANCE))
        if not same:
            raise InputError(
                f"{path}: joint {self.model.joint(joint_id).name}: expected position limits"
                f" {expected} as in the contract, got {limits}"
            )

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

    def _element(self, field: str, name: str | None, path: Path) -> int:
        """The body of an imu, or a camera; -1 for none."""
        if name is None:
            return -1
        imu = field == "imu"
        kind = mujoco.mjtObj.mjOBJ_BODY if imu else mujoco.mjtObj.mjOBJ_CAMERA
        element = mujoco.mj_name2id(self.model, kind, name)
        if element < 0:
            first, count = (1, self.model.nbody) if imu else (0, self.model.ncam)
            names = [mujoco.mj_id2name(self.model, kind, i) for i in range(first, count)]
            what = "body" if imu else "camera"
            raise InputError(f"{path}: sim.{field}: expected a {what} of {names}, got {name}")
        return int(element)

    def reset(self, positions: Mapping[str, float], height: float | None = None) -> RobotState:
        """Put the robot at rest.

        Args:
            positions: joint -> position [rad or m]; others as the model has them.
            height: of a free base above the world's origin [m]; None: as the model has it.
        """
        mujoco.mj_resetData(self.model, self.data)
        for name, position in positions.items():
            self.data.qpos[self._qpos[self._index[name]]] = position
        if height is not None and self._free is not None:
            self.data.qpos[self.model.jnt_qposadr[self._free] + 2] = height
        mujoco.mj_forward(self.model, self.data)
        self._command = np.zeros(len(self._joints))
        if self.drive is not None:
            self._command[:] = self.data.qpos[self._driven[0]]
            self.drive.reset()
        return self.state()

    def step(self, command: JointCommand) -> RobotState:
        """Hold the command for one control period."""
        self.command(command)
        self.advance(self.decimation)
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
        model, data, drive = self.model, self.data, self.drive
        if drive is None:
            data.ctrl[self._motors] = self._command
            mujoco.mj_step(model, data, nstep=steps)
            return
        qpos, dof = self._driven
        for _ in range(steps):
            data.qfrc_applied[dof] = drive.effort(self._command, data.qpos[qpos], data.qvel[dof])
            mujoco.mj_step(model, data)

    def state(self) -> RobotState:
        """The current reading; its arrays are copies."""
        orientation = angular_velocity = None
        if self._imu_is_base:
            start, dof = self.model.jnt_qposadr[self._free], self.model.jnt_dofadr[self._free]
            orientation = self.data.qpos[start + 3 : start + 7].copy()
            angular_velocity = self.data.qvel[dof + 3 : dof + 6].copy()
        elif self._imu >= 0:
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
            joint_position=self.data.qpos[self._qpos] + self.encoder_bias,
            joint_velocity=self.data.qvel[self.dofs],
            orientation=orientation,
            angular_velocity=angular_velocity,
        )

    def joint_position(self) -> FloatArray:
        """True positions in the contract's order, shape (n_joints,) [rad or m]."""
        position: FloatArray = self.data.qpos[self._qpos]
        return position

    @property
    def has_free_base(self) -> bool:
        """Does the model have a free joint?"""
        return self._free is not None

    def base(self) -> BaseMotion:
        """How a free base moves.

        Raises:
            InputError: the model has no free joint.
        """
        if self._free is None:
            raise InputError("the task needs a base that moves freely: a model with a free joint")
        start, dof = self.model.jnt_qposadr[self._free], self.model.jnt_dofadr[self._free]
        orientation = self.data.qpos[start + 3 : start + 7]
        w, x, y, z = orientation
        forward = np.array([1 - 2 * (y * y + z * z), 2 * (x * y + w * z)])
        cos, sin = forward / max(1e-9, float(np.hypot(*forward)))
        vx, vy, vz = self.data.qvel[dof : dof + 3]  # in the world's frame
        return BaseMotion(
            height=float(self.data.qpos[start + 2]),
            velocity=np.array([cos * vx + sin * vy, cos * vy - sin * vx, vz]),
            angular_velocity=self.data.qvel[dof + 3 : dof + 6].copy(),
            gravity=projected_gravity(orientation),
        )

    def push(self, velocity: FloatArray) -> None:
        """Change a free base's horizontal velocity at once; shape (2,), world frame [m/s]."""
        assert self._free is not None
        dof = self.model.jnt_dofadr[self._free]
        self.data.qvel[dof : dof + 2] += velocity


def make_plant(config: RobotTaskConfig, model: Path) -> Plant:
    """The simulated robot of a configuration.

    Raises:
        InputError: the model does not fit the contract or the task.
    """
    speeds = {joint.name: joint.velocity_limit for joint in config.robot.joints}
    plant = Plant(config.policy, config.sim, model, speeds)
    if isinstance(config.task, VelocityTrackingConfig) and not plant.has_free_base:
        raise InputError(
            f"{model}: expected a model with a free joint, which task {config.task.kind} needs, got"
            " none"
        )
    return plant
