"""SimRobot: the body and the motors of a simulated Go2, in the order of Unitree's motors."""

from __future__ import annotations

from dataclasses import dataclass, field

import mujoco
import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.unitree.low_level import LEGS, MOTORS
from dime_robot.sim.config.robot_task import load_robot_task
from dime_robot.sim.plant.drive import PositionDrive
from dime_robot.sim.plant.lying import lie
from dime_robot.sim.plant.plant import make_plant

N = len(MOTORS)
TIMESTEP = 0.001  # [s]; the motors' torque is computed anew at each step
CONFIG = "go2"  # of sim_configs
IMU_SITE = "imu"
SETTLING = 1.0  # [s] in which the robot comes to rest at the start, with the contract's gains
MOVE_TIME = 1.5  # [s] in which the robot's own controller stands up or lies down
OWN_STIFFNESS, OWN_DAMPING = 60.0, 3.0  # of that controller [N m/rad], [N m s/rad]: an estimate


@dataclass(frozen=True)
class MotorCommand:
    """What each motor follows: torque + kp (position - q) + kd (velocity - dq). Shapes (12,)."""

    position: FloatArray = field(default_factory=lambda: np.zeros(N))
    """[rad]"""
    velocity: FloatArray = field(default_factory=lambda: np.zeros(N))
    """[rad/s]"""
    torque: FloatArray = field(default_factory=lambda: np.zeros(N))
    """[N m]"""
    stiffness: FloatArray = field(default_factory=lambda: np.zeros(N))
    """kp [N m/rad]"""
    damping: FloatArray = field(default_factory=lambda: np.zeros(N))
    """kd [N m s/rad]"""


class SimRobot:
    """A Go2 in MuJoCo, on flat ground, at rest.

    Args:
        standing: whether it starts in the default pose of its configuration, else it lies as its
            own controller leaves it.
    """

    def __init__(self, standing: bool) -> None:
        config, path = load_robot_task(CONFIG)
        policy, machine = config.policy, {joint.name: joint for joint in config.robot.joints}
        joints = [policy.joint(name) for name in MOTORS]  # the model's names are Unitree's
        feet = {leg: f"{leg}_foot" for leg in LEGS}
        sim = config.sim.model_copy(update={"timestep": TIMESTEP, "feet": feet})
        plant = self._plant = make_plant(config.model_copy(update={"sim": sim}), path)
        self.model: mujoco.MjModel = plant.model
        self.data: mujoco.MjData = plant.data
        order = [[joint.name for joint in policy.joints].index(name) for name in MOTORS]
        self._qpos, self._dofs = plant.qpos_indices[order], plant.dofs[order]
        self._limits = PositionDrive(  # for its bounds alone
            [0.0] * N,
            [0.0] * N,
            [joint.effort_limit or np.inf for joint in joints],
            sim.full_torque_speed,
            [machine[name].velocity_limit for name in MOTORS],
        )
        self._site = self.model.site(IMU_SITE).id
        self._acceleration = np.zeros(6)
        self.standing_pose: FloatArray = np.array([joint.default_position for joint in joints])
        self.lying_pose: FloatArray = np.array([machine[name].safe_position for name in MOTORS])
        self.torque: FloatArray = np.zeros(N)  # of the last step [N m]
        self.start_pose = self.standing_pose if standing else self.lying_pose
        start = dict(zip(MOTORS, self.start_pose.tolist(), strict=True))
        lie(plant, lambda *_: None, start, settling=SETTLING)
        self.data.time = 0.0

    def step(self, command: MotorCommand | None) -> None:
        """Simulate one step of `TIMESTEP`.

        Args:
            command: of the motors; None: they are limp, with no torque at all.
        """
        if command is None:
            self.torque = np.zeros(N)
        else:
            q, dq = self.position, self.velocity
            wanted = command.torque + command.stiffness * (command.position - q)
            wanted += command.damping * (command.velocity - dq)
            low, high = self._limits.bounds(dq)
            self.torque = np.maximum(np.minimum(wanted, high), low)
        self.data.qfrc_applied[self._dofs] = self.torque
        mujoco.mj_step(self.model, self.data)

    @property
    def time(self) -> float:
        """Simulated time since the start [s]."""
        return float(self.data.time)

    @property
    def position(self) -> FloatArray:
        """Of the motors, shape (12,) [rad]."""
        found: FloatArray = self.data.qpos[self._qpos]
        return found

    @property
    def velocity(self) -> FloatArray:
        """Of the motors, shape (12,) [rad/s]."""
        found: FloatArray = self.data.qvel[self._dofs]
        return found

    @property
    def acceleration(self) -> FloatArray:
        """Of the motors, shape (12,) [rad/s^2]."""
        found: FloatArray = self.data.qacc[self._dofs]
        return found

    @property
    def orientation(self) -> FloatArray:
        """Of the base to the world, w x y z, shape (4,)."""
        found: FloatArray = self.data.qpos[3:7]
        return found

    @property
    def angular_velocity(self) -> FloatArray:
        """Of the base in its own frame, shape (3,) [rad/s]."""
        found: FloatArray = self.data.qvel[3:6]
        return found

    @property
    def place(self) -> FloatArray:
        """Of the base in the world, shape (3,) [m]."""
        found: FloatArray = self.data.qpos[:3]
        return found

    def specific_force(self) -> FloatArray:
        """Return what the accelerometer reads: upwards at rest, shape (3,) [m/s^2]."""
        mujoco.mj_rnePostConstraint(self.model, self.data)
        mujoco.mj_objectAcceleration(
            self.model, self.data, mujoco.mjtObj.mjOBJ_SITE, self._site, self._acceleration, 1
        )
        return self._acceleration[3:]

    def foot_forces(self) -> FloatArray:
        """Return the force on each foot in the order of `wire.LEGS`, shape (4,) [N]."""
        return self._plant.foot_forces(LEGS)


class OwnController:
    """The robot's own controller: holds a pose, and goes to another one on request.

    What a Go2's own controller does is not published; this one only stands and lies.

    Args:
        pose: that it holds at first, shape (12,) [rad].
    """

    def __init__(self, pose: FloatArray) -> None:
        self._from = self._to = pose
        self._began = -MOVE_TIME

    def go(self, pose: FloatArray, measured: FloatArray, now: float) -> None:
        """Begin to go to a pose.

        Args:
            pose: shape (12,) [rad].
            measured: position now, shape (12,) [rad].
            now: simulated time [s].
        """
        self._from, self._to, self._began = measured, pose, now

    def command(self, now: float) -> MotorCommand:
        """Return what the motors follow.

        Args:
            now: simulated time [s].
        """
        share = min(1.0, (now - self._began) / MOVE_TIME)
        share = share * share * (3 - 2 * share)  # at rest at both ends
        return MotorCommand(
            position=self._from + share * (self._to - self._from),
            stiffness=np.full(N, OWN_STIFFNESS),
            damping=np.full(N, OWN_DAMPING),
        )
