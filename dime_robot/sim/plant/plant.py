"""Plant: the simulated robot, which turns a JointCommand into a RobotState."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import mujoco
import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.interpolation import NO_INTERPOLATION, Interpolation
from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.interpolation import CommandPath
from dime_robot.runtime.control.observation import projected_gravity
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError
from dime_robot.sim.config.robot_task import RobotTaskConfig, SimConfig
from dime_robot.sim.model.fit import JOINT_TYPES, Fit
from dime_robot.sim.model.loading import joint_name, load_model
from dime_robot.sim.plant.drive import (
    Driven,
    PositionDrive,
    VelocityDrive,
    explicit_step,
    implicit_step,
)
from dime_robot.sim.plant.stability import Unstable, unstable

UPRIGHT = (1.0, 0.0, 0.0, 0.0)
SCALAR = tuple(JOINT_TYPES.values())  # kinds of joints with one coordinate
MAX_NAMED = 4  # joints in a message
MAX_SPEED = 1e6  # of any coordinate; above it the simulation has diverged [rad/s or m/s]
# of MuJoCo's warnings, those of a state that is not finite or is too large
DIVERGED = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADQACC) + 1)


class BaseMotion(NamedTuple):
    """The true motion of a free base, which a robot cannot measure."""

    height: float  # above the world's origin [m]
    velocity: FloatArray  # in the level frame with the base's heading, shape (3,) [m/s]
    angular_velocity: FloatArray  # in the base's frame, shape (3,) [rad/s]
    gravity: FloatArray  # unit vector in the base's frame, shape (3,)


class Plant:
    """A MuJoCo model addressed by the contract's joint names.

    Drives of positions and velocities of joints are computed here, from the contract's gains and
    limits, and the model's actuators are disabled. Efforts and twists go through the model's
    actuators. Joints that the policy does not command are held here (`sim.hold`), with their
    actuators disabled, or are free (`sim.free`). The base is the root body of the contract's
    joints.

    Args:
        spec: joints in policy order.
        sim: simulation settings.
        model_path: MJCF file.
        speed_limits: joint -> largest speed of a drive [rad/s or m/s].
        contact_threshold: force from which on a foot is in contact [N]; any, if it is 0.
        interpolation: of the robot's commands: `command` then takes that of a whole step, and
            those in between are computed here.

    Raises:
        InputError: model and contract do not fit (`model.fit`), or a drive is unstable at the time
            step.
    """

    def __init__(
        self,
        spec: PolicySpec,
        sim: SimConfig,
        model_path: Path,
        speed_limits: Mapping[str, float] | None = None,
        contact_threshold: float = 0.0,
        interpolation: Interpolation = NO_INTERPOLATION,
    ) -> None:
        try:
            sim.require_fit(spec)
        except ValueError as error:
            raise InputError(str(error)) from None
        self.model = load_model(model_path, sim.timestep)
        fit = Fit(self.model, spec, sim)
        if fit.problems:
            raise InputError(f"{model_path}: {fit.problems[0]}")
        fit.disable_actuators()
        self._source = model_path
        self.data = mujoco.MjData(self.model)
        self.decimation = sim.decimation
        self.joint_ids = fit.joints
        # of the contract's joints in data.qpos and data.qvel, shape (n_joints,) each
        self.qpos_indices = self.model.jnt_qposadr[self.joint_ids].astype(np.intp)
        self.dofs = self.model.jnt_dofadr[self.joint_ids].astype(np.intp)
        self._index = {joint.name: i for i, joint in enumerate(spec.joints)}
        self._kind, self._joints = spec.action.kind, spec.action_joints
        self.encoder_bias: FloatArray = np.zeros(len(spec.joints))  # reading minus truth [rad or m]
        self.imu_mounting: FloatArray = np.array(UPRIGHT)  # of the imu on its body, w x y z
        self.drive: PositionDrive | None = None
        self._motors = fit.controls.astype(np.intp)
        # of readings and commands, last drawn [s]; whatever delays them writes it
        self.delays: tuple[float, float] = (0.0, 0.0)
        self._command: FloatArray = np.zeros(len(self._joints))
        # simulation steps since `reset`, when the path to the last command began, and between two
        # commands on it; it counts in steps, so that no rounding depends on the time
        self._now = self._path_began = 0
        self._path = CommandPath.of(interpolation, sim.decimation)
        self._every = sim.decimation // interpolation.per_step(spec)
        self._driven: tuple[Driven, ...] = ()
        if self._kind in ("position", "velocity"):
            order = np.array([self._index[name] for name in self._joints])
            drive = PositionDrive if self._kind == "position" else VelocityDrive
            self.drive = drive.of_policy(spec, sim.full_torque_speed, speed_limits or {})
            self._driven = (
                Driven(self.drive, self._command, self.qpos_indices[order], self.dofs[order]),
            )
            self.model.opt.disableflags |= mujoco.mjtDisableBit.mjDSBL_ACTUATION
        self._held = dict(spec.held_joints)
        if self._held:
            self._driven += (
                Driven(
                    PositionDrive.of_held(list(self._held), sim),
                    np.array(list(self._held.values())),
                    self.model.jnt_qposadr[fit.held].astype(np.intp),
                    self.model.jnt_dofadr[fit.held].astype(np.intp),
                ),
            )
        self._default = {joint.name: joint.default_position for joint in spec.joints}
        self._driven_names = [*(self._joints if self.drive else ()), *self._held]
        self._implicit = sim.drive == "implicit" and bool(self._driven)
        self._measures_effort = spec.needs("joint_effort")
        self._feet, self._observed_feet = fit.feet, list(spec.feet)
        self._threshold = contact_threshold
        self._free = fit.free_joint
        # of the free joint in data.qpos and data.qvel
        self._free_qpos = 0 if self._free is None else int(self.model.jnt_qposadr[self._free])
        self._free_dof = 0 if self._free is None else int(self.model.jnt_dofadr[self._free])
        self.root = 0 if fit.root is None else fit.root  # body of the robot below the world
        self._imu = fit.imu
        # on the base, the imu reads the coordinates of the free joint
        self._imu_is_base = (
            self._free is not None and self.model.jnt_bodyid[self._free] == self._imu
        )
        self.require_stable()

    @property
    def default_pose(self) -> dict[str, float]:
        """Positions of the contract's and the held joints at action 0: joint -> [rad or m]."""
        return {**self._default, **self._held}

    def require_stable(self) -> None:
        """Refuse current gains that are unstable at the time step.

        Raises:
            InputError: with the joints, their inertia and the largest stable gain.
        """
        if not self._driven:
            return
        pose = self.model.qpos0.copy()
        for name, position in self.default_pose.items():
            pose[self.model.joint(name).qposadr[0]] = position
        dofs = np.concatenate([each.dofs for each in self._driven])
        gains = (
            np.concatenate([each.drive.strength * each.drive.stiffness for each in self._driven]),
            np.concatenate([each.drive.strength * each.drive.damping for each in self._driven]),
        )
        found = unstable(self.model, pose, dofs, gains, self._implicit)
        if found:
            raise InputError(f"{self._source}: {self._why_unstable(found, gains)}")

    def _why_unstable(self, found: Sequence[Unstable], gains: tuple[FloatArray, FloatArray]) -> str:
        phrases = []
        for row, inertia, largest in found[:MAX_NAMED]:
            name = self._driven_names[row]
            turns = self.model.joint(name).type[0] == mujoco.mjtJoint.mjJNT_HINGE
            mass, stiffness, damping = (
                ("kg m^2", "N m/rad", "N m s/rad") if turns else ("kg", "N/m", "N s/m")
            )
            if self._implicit:
                gain = f"stiffness {gains[0][row]:g} {stiffness}, largest {largest:.3g}"
            elif largest <= 0:
                gain = f"stiffness {gains[0][row]:g} {stiffness}, too stiff for any damping"
            else:
                gain = f"damping {gains[1][row]:g} {damping}, largest stable {largest:.3g}"
            phrases.append(f"{name} (inertia {inertia:.3g} {mass}, {gain})")
        if len(found) > MAX_NAMED:
            phrases.append(f"and {len(found) - MAX_NAMED} more")
        what = "stiffness" if self._implicit else "gains"
        advice = "" if self._implicit else "set sim.drive: implicit, or "
        return (
            f"expected {what} that a simulation step of {self.model.opt.timestep:g} s can follow,"
            f" got joints that would oscillate ever more: {', '.join(phrases)}; {advice}lower these"
            " gains, or the timestep"
        )

    def reset(self, positions: Mapping[str, float], height: float | None = None) -> RobotState:
        """Put the robot at rest.

        Args:
            positions: joint -> position [rad or m]; others as the model has them.
            height: of a free base above the world's origin [m]; None: as the model has it.
        """
        mujoco.mj_resetData(self.model, self.data)
        for name, position in {**self._held, **positions}.items():
            self.data.qpos[self._qpos_index(name)] = position
        if height is not None and self._free is not None:
            self.data.qpos[self._free_qpos + 2] = height
        mujoco.mj_forward(self.model, self.data)
        self._command[:] = 0.0
        if self._kind == "position":
            self._command[:] = self.data.qpos[self._driven[0].qpos]
        self._now = 0
        if self._path is not None:
            self._path.stop()
        for driven in self._driven:
            driven.drive.reset()
        return self.state()

    def _qpos_index(self, name: str) -> int:
        """Return the index in `data.qpos` of a revolute or prismatic joint of the model.

        Raises:
            InputError: the model has no such joint.
        """
        if name in self._index:
            return int(self.qpos_indices[self._index[name]])
        joint = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_JOINT, name)
        scalar = joint >= 0 and mujoco.mjtJoint(int(self.model.jnt_type[joint])) in SCALAR
        if not scalar:
            raise InputError(
                f"{self._source}: expected a revolute or prismatic joint {name}, got none"
            )
        return int(self.model.jnt_qposadr[joint])

    def positions(self, names: Sequence[str]) -> FloatArray:
        """Return the true positions of revolute or prismatic joints of the model.

        Args:
            names: in the model, of the contract or not.

        Returns:
            Shape (len(names),) [rad or m], in the order of the names.

        Raises:
            InputError: the model has no such joint.
        """
        return np.array([self.data.qpos[self._qpos_index(name)] for name in names], dtype=float)

    def divergence(self, max_speed: float = MAX_SPEED) -> str | None:
        """Return how the simulation has diverged since the reset, as a phrase; None: it has not.

        Args:
            max_speed: of any coordinate; a larger one is a divergence [rad/s or m/s].
        """
        model, data = self.model, self.data
        warned = any(data.warning.number[DIVERGED].tolist())
        position, velocity = data.qpos, data.qvel
        # sums of squares: in almost all calls they are small, which is seen in half of the time
        if (
            not warned
            and velocity.dot(velocity) <= max_speed**2
            and math.isfinite(position.dot(position))
        ):
            return None
        speeds = np.abs(velocity)
        finite = np.isfinite(position).all()
        slow: npt.NDArray[np.bool_] = speeds <= max_speed  # false also where it is not a number
        if not slow.all():
            dof = int(slow.argmin())
            joint = joint_name(model, int(model.dof_jntid[dof]))
            return f"a speed of {data.qvel[dof]:g} rad/s or m/s at {joint}"
        if not finite:
            return "positions that are not finite"
        return "a state that MuJoCo warned of" if warned else None

    def pose_errors(self) -> dict[str, float]:
        """Return the current position error of each joint with a target position.

        Returns:
            Joint -> |target - position| [rad or m]; empty if no joint has such a target.
        """
        errors: dict[str, float] = {}
        names = iter(self._driven_names)
        for drive, target, qpos, _ in self._driven:
            own = [next(names) for _ in target]
            if not isinstance(drive, VelocityDrive):
                off = np.abs(target - self.data.qpos[qpos]).tolist()
                errors.update(zip(own, off, strict=True))
        return errors

    @property
    def driven_joints(self) -> list[str]:
        """Joints with a drive: those whose position or velocity is commanded, then the held."""
        return list(self._driven_names)

    def efforts(self) -> FloatArray:
        """Return the last effort of each of `driven_joints`, shape (n,) [N m or N]."""
        return np.concatenate([np.zeros(0), *(each.drive.applied for each in self._driven)])

    def step(self, command: JointCommand) -> RobotState:
        """Simulate one control period with a command; return the reading at its end."""
        self.command(command)
        self.advance(self.decimation)
        return self.state()

    def command(self, command: JointCommand) -> None:
        """Set the command that the motors follow from now on, or reach a period later."""
        if command.kind != self._kind or command.joints != self._joints:
            raise ValueError(
                f"expected a command of {self._kind} for {self._joints}, got {command.kind} for"
                f" {command.joints}"
            )
        if command.value.shape != self._command.shape:
            raise ValueError(
                f"expected {len(self._command)} numbers, got an array of shape"
                f" {command.value.shape}"
            )
        if self._path is None:
            self._command[:] = command.value
            return
        self._path.lead(self._now, self._path.at(self._now, self._command), command.value)
        self._path_began = self._now

    def advance(self, steps: int) -> None:
        """Simulate a number of steps."""
        if self._path is None:
            self._advance(steps)
            return
        for _ in range(steps):
            if (self._now - self._path_began) % self._every == 0:
                self._command[:] = self._path.at(self._now, self._command)
            self._advance(1)
            self._now += 1

    def _advance(self, steps: int) -> None:
        model, data = self.model, self.data
        if self.drive is None:
            data.ctrl[self._motors] = self._command
            if not self._driven:
                mujoco.mj_step(model, data, nstep=steps)
                return
        for _ in range(steps):
            if self._implicit:
                implicit_step(model, data, self._driven)
            else:
                explicit_step(model, data, self._driven)

    def state(self) -> RobotState:
        """Return the current reading; its arrays are copies."""
        orientation = angular_velocity = None
        position, velocity = self.data.qpos, self.data.qvel
        if self._imu_is_base:
            start, dof = self._free_qpos, self._free_dof
            orientation = position[start + 3 : start + 7].copy()
            angular_velocity = velocity[dof + 3 : dof + 6].copy()
        elif self._imu >= 0:
            # mj_step updates these before the positions
            mujoco.mj_kinematics(self.model, self.data)
            mujoco.mj_comPos(self.model, self.data)
            mujoco.mj_comVel(self.model, self.data)
            orientation = self.data.xquat[self._imu].copy()
            motion = np.zeros(6)  # in the body's frame; mjOBJ_BODY would be that of its inertia
            mujoco.mj_objectVelocity(
                self.model, self.data, mujoco.mjtObj.mjOBJ_XBODY, self._imu, motion, 1
            )
            angular_velocity = motion[:3]
        if orientation is not None and angular_velocity is not None:
            orientation, angular_velocity = self._as_mounted(orientation, angular_velocity)
        return RobotState(
            stamp=float(self.data.time),
            joint_position=position[self.qpos_indices] + self.encoder_bias,
            joint_velocity=velocity[self.dofs],
            orientation=orientation,
            angular_velocity=angular_velocity,
            joint_effort=self.joint_effort() if self._measures_effort else None,
            foot_contact=self._contacts() if self._observed_feet else None,
        )

    def joint_effort(self) -> FloatArray:
        """Return the efforts of drives and motors in the last simulation step.

        Returns:
            In the contract's order, shape (n_joints,) [N m or N].
        """
        efforts: FloatArray = self.data.qfrc_actuator.copy()
        for driven in self._driven:
            efforts[driven.dofs] += driven.drive.applied
        of_joints: FloatArray = efforts[self.dofs]
        return of_joints

    @property
    def feet(self) -> dict[str, int]:
        """The geom of each foot in `sim.feet`: name -> its number in the model."""
        return dict(self._feet)

    def foot_forces(self, feet: Sequence[str]) -> FloatArray:
        """Return the force that presses on each foot, shape (n_feet,) [N].

        Args:
            feet: names in `sim.feet`.
        """
        return self.contact_forces([self._feet[foot] for foot in feet])

    def contact_forces(self, geoms: Sequence[int]) -> FloatArray:
        """Return the force that presses on each geom, shape (n_geoms,) [N].

        Args:
            geoms: their numbers in the model.
        """
        data = self.data
        forces, force = np.zeros(len(geoms)), np.zeros(6)
        for i, touching in enumerate(data.contact.geom.tolist() if data.ncon else ()):
            for row, geom in enumerate(geoms):
                if geom in touching:
                    mujoco.mj_contactForce(self.model, data, i, force)
                    forces[row] += force[0]  # along the contact's normal
        return forces

    def _contacts(self) -> FloatArray:
        """Return which of the contract's feet are in contact, 1 or 0, shape (n_feet,)."""
        forces = self.foot_forces(self._observed_feet)
        return ((forces > 0) & (forces >= self._threshold)).astype(float)

    def _as_mounted(
        self, orientation: FloatArray, angular_velocity: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Rotate the imu's readings by its mounting error, shapes (4,), (3,)."""
        if tuple(self.imu_mounting.tolist()) == UPRIGHT:  # as an array it takes ten times as long
            return orientation, angular_velocity
        turned, back, read = np.zeros(4), np.zeros(4), np.zeros(3)
        mujoco.mju_mulQuat(turned, orientation, self.imu_mounting)
        mujoco.mju_negQuat(back, self.imu_mounting)
        mujoco.mju_rotVecQuat(read, angular_velocity, back)
        return turned, read

    def joint_position(self) -> FloatArray:
        """Return the true positions in the contract's order, shape (n_joints,) [rad or m]."""
        position: FloatArray = self.data.qpos[self.qpos_indices]
        return position

    @property
    def free_joint(self) -> int | None:
        """Number of the free joint of the robot's root; None: its base is fixed."""
        return self._free

    @property
    def has_free_base(self) -> bool:
        """Whether the robot's root body moves freely."""
        return self._free is not None

    @property
    def has_imu(self) -> bool:
        """Whether the robot has an imu."""
        return self._imu >= 0

    def base(self) -> BaseMotion:
        """Return the motion of a free base.

        Raises:
            InputError: the robot has no free joint.
        """
        if self._free is None:
            raise InputError(
                f"{self._source}: expected a model with a free joint, since the base has to move"
                " freely, got none"
            )
        start, dof = self._free_qpos, self._free_dof
        pose, speeds = self.data.qpos[start : start + 7], self.data.qvel[dof : dof + 6]
        # Python's numbers: NumPy's single ones take several times as long
        _, _, height, w, x, y, z = pose.tolist()
        vx, vy, vz, *_ = speeds.tolist()  # in the world's frame
        forward, left = 1 - 2 * (y * y + z * z), 2 * (x * y + w * z)
        length = max(1e-9, float(np.hypot(forward, left)))
        cos, sin = forward / length, left / length
        return BaseMotion(
            height=height,
            velocity=np.array([cos * vx + sin * vy, cos * vy - sin * vx, vz]),
            angular_velocity=speeds[3:].copy(),
            gravity=projected_gravity(pose[3:]),
        )

    def push(self, velocity: FloatArray) -> None:
        """Add to a free base's horizontal velocity; shape (2,), world frame [m/s].

        Args:
            velocity: horizontal change in the world's frame, shape (2,) [m/s].
        """
        assert self._free is not None
        self.data.qvel[self._free_dof : self._free_dof + 2] += velocity


def make_plant(config: RobotTaskConfig, model: Path, interpolates: bool = True) -> Plant:
    """Make the simulated robot of a configuration.

    Args:
        config: of the robot.
        model: its MJCF file.
        interpolates: False: it gets the commands between two steps as well.

    Raises:
        InputError: the model does not fit the contract.
    """
    speeds = {joint.name: joint.velocity_limit for joint in config.robot.joints}
    contact = config.robot.contact
    threshold = 0.0 if contact is None else contact.threshold
    interpolation = config.robot.command.interpolated if interpolates else NO_INTERPOLATION
    return Plant(config.policy, config.sim, model, speeds, threshold, interpolation)
