"""ReadingCheck: detects readings that jump, and readings that no longer change.

Pure: stamps are passed in. A single impossible reading is rejected. Several in a row are a fault
until `restart`: an encoder that slipped, or a second robot on the topic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, Joint, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.safety_filter import SPEED_TOLERANCE

JUMP_SLACK = 0.05  # change of a reading that noise and coarse encoders explain [rad or m]
UNSEEN_SPEED = 0.5  # share of the speed limit that a joint may have had between two readings
TURN_SLACK = 0.1  # [rad] of an orientation
FROZEN_MULTIPLE = 5.0  # of resolution + dead band: a larger motion of a command must move a joint
FROZEN_EFFORT = 0.2  # share of the effort limit: a larger change of an effort must move a joint
FROZEN_SPEED = 0.05  # share of the velocity limit; friction may hold a joint at a slower command
EFFORT_PATIENCE = 4.0  # times `frozen_after`, since friction may hold the joint for that long


class JointDistance:
    """Distance between two positions of joints: the shorter way round for those that turn freely.

    Args:
        joints: in the order of the positions.
        robot: the machine, whose stops say which joints turn freely.
    """

    def __init__(self, joints: Sequence[Joint], robot: RobotConfig) -> None:
        free = [
            joint.type == "revolute" and robot.joint(joint.name).position_limits is None
            for joint in joints
        ]
        self._free, self._any_free = np.array(free, dtype=bool), any(free)

    def __call__(self, position: FloatArray, other: FloatArray) -> FloatArray:
        """Return |position - other|, shape (n,) [rad or m]."""
        change: FloatArray = position - other
        if self._any_free:
            wrapped = np.remainder(change + np.pi, 2 * np.pi) - np.pi
            change = np.where(self._free, wrapped, change)
        return np.abs(change)


class ReadingCheck:
    """Check readings for jumps and for frozen values.

    Args:
        spec: the policy's contract.
        robot: the machine, found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        self._names = [joint.name for joint in spec.joints]
        joints = [robot.joint(name) for name in self._names]
        self._speed = SPEED_TOLERANCE * np.array([joint.velocity_limit for joint in joints])
        self._unseen = UNSEEN_SPEED / SPEED_TOLERANCE * self._speed
        self._distance = JointDistance(spec.joints, robot)
        self._min_interval = 1.0 / robot.state.rate  # [s]: no speed is computed from closer stamps
        self._max_jumps = robot.safety.consecutive_jumps
        self._gyro = SPEED_TOLERANCE * (robot.imu.max_rate if robot.imu else np.inf)
        self._frozen_after = robot.state.frozen_after
        self._kind = spec.action.kind
        # change of a command (of velocities: of their integral) after which the joints must have
        # moved [N m, N, rad, m]
        threshold = FROZEN_MULTIPLE * (robot.state.resolution + robot.state.dead_band)
        self._threshold = np.full(len(spec.action_joints), threshold)
        if self._kind == "effort":
            limits = [robot.joint(name).effort_limit or np.inf for name in spec.action_joints]
            self._threshold = FROZEN_EFFORT * np.array(limits)
            self._frozen_after *= EFFORT_PATIENCE
        # of velocities of joints: how far those that were sent would have moved the joints
        self._slowest = np.zeros(len(spec.action_joints))  # speed that counts [rad/s or m/s]
        if self._kind == "velocity":
            speeds = [robot.joint(name).velocity_limit for name in spec.action_joints]
            self._slowest = FROZEN_SPEED * np.array(speeds)
        self.restart()

    def restart(self) -> None:
        """Accept the next reading as true."""
        self.broken = ""  # why all readings are rejected; empty: they are not
        self._steady = 0  # consecutive plausible readings
        self._position: FloatArray | None = None  # of the last accepted reading
        self._last_speed: FloatArray = np.zeros(len(self._names))  # |velocity| of the same
        self._suspect: FloatArray | None = None  # of the last rejected reading
        self._stamp = self._orientation_stamp = 0.0
        self._orientation: FloatArray | None = None
        self._rejected = 0
        self._same: bytes | None = None  # the joints' last values
        self._same_since = 0.0  # when they last changed [s]
        self._low: FloatArray | None = None  # range of the commands since then
        self._high: FloatArray | None = None
        self._travel: FloatArray = np.zeros(len(self._slowest))  # of velocities [rad or m]
        self._last_command: tuple[float, FloatArray] | None = None  # when [s], and the velocities

    def position_jump(self, position: FloatArray, velocity: FloatArray, stamp: float) -> str:
        """Return why positions cannot follow the previous ones, as a phrase; empty: they can.

        A joint moves no faster than 1.5 times its velocity limit, and no faster than 1.5 times the
        speed measured at both readings plus half of its limit.

        Args:
            position: in policy order, shape (n_joints,) [rad or m].
            velocity: in policy order, shape (n_joints,) [rad/s or m/s].
            stamp: when they were measured [s].
        """
        before, measured = self._position, np.abs(velocity)
        if before is None:
            if np.isfinite(position).all():
                self._position, self._stamp, self._last_speed = position, stamp, measured
            return ""
        change = self._distance(position, before)
        elapsed = max(stamp - self._stamp, self._min_interval)
        explained = SPEED_TOLERANCE * np.maximum(measured, self._last_speed)
        speed = np.fmin(self._speed, explained + self._unseen)  # NaN is another fault
        allowed = speed * elapsed + JUMP_SLACK
        jumped = not (change <= allowed).all()
        if jumped and not np.isfinite(position).all():
            return ""  # NaN is another fault
        if self._suspect is not None and not jumped:
            # a slipped encoder stays where it was rejected: passing time does not make it plausible
            jumped = bool((change > self._distance(position, self._suspect) + JUMP_SLACK).any())
        if not jumped or self.broken:
            self._position, self._stamp, self._suspect = position, stamp, None
            self._last_speed = measured
        if not jumped:
            self._rejected = 0
            self._steady += 1
            return ""
        if not self.broken:
            self._suspect = position
        excess = change - allowed
        worst = int(excess.argmax())
        why = (
            f"{self._names[worst]} jumped by {change[worst]:.3g} within {elapsed:.3g} s, where"
            f" {speed[worst]:.3g} per second is possible"
        )
        return self._reject(why)

    def orientation_jump(self, orientation: FloatArray, stamp: float) -> str:
        """Return why an orientation cannot follow the previous one, as a phrase; empty: it can.

        Args:
            orientation: of the base, w x y z, shape (4,).
            stamp: when it was measured [s].
        """
        square = float(orientation @ orientation)
        if not 0.25 < square < 4:  # no unit quaternion is another fault
            return ""
        length = math.sqrt(square)
        if self._orientation is not None:
            elapsed = max(stamp - self._orientation_stamp, self._min_interval)
            possible = min(self._gyro * elapsed + TURN_SLACK, math.pi)
            cosine = abs(float(orientation @ self._orientation)) / length
            if cosine < math.cos(possible / 2) and not self.broken:
                angle = 2 * math.acos(min(1.0, cosine))
                return self._reject(
                    f"the imu turned by {angle:.3g} rad within {elapsed:.3g} s, where"
                    f" {self._gyro:g} rad/s are possible"
                )
        self._orientation, self._orientation_stamp = orientation / length, stamp
        return ""

    @property
    def settled(self) -> bool:
        """Whether readings are consistent again, so that an operator may accept them."""
        return self._steady >= self._max_jumps

    def _reject(self, why: str) -> str:
        self._rejected += 1
        self._steady = 0
        if self._rejected >= self._max_jumps and not self.broken:
            self.broken = f"{why}; {self._rejected} such readings in a row"
        return why

    def commanded(self, value: FloatArray, now: float) -> None:
        """Take a command that was sent; shape (n_act,) in SI units.

        Args:
            value: shape (n_act,), SI units.
            now: steady time [s].
        """
        if self._kind == "velocity":
            if self._last_command is not None:
                since, velocity = self._last_command
                counted = np.where(np.abs(velocity) > self._slowest, velocity, 0.0)
                self._travel = self._travel + counted * (now - since)
            self._last_command = (now, value)
            value = self._travel
        if self._low is None or self._high is None:
            self._low, self._high = value, value
        else:
            self._low, self._high = np.minimum(self._low, value), np.maximum(self._high, value)

    def frozen(self, position: FloatArray, velocity: FloatArray, now: float) -> str:
        """Return why the joints' values count as frozen, as a phrase; empty: they do not.

        With a twist nothing is checked, since it is not known which joints it moves.

        Args:
            position: shape (n_joints,) [rad or m].
            velocity: shape (n_joints,) [rad/s or m/s].
            now: steady time [s].
        """
        if self._kind == "twist":
            return ""
        values = position.tobytes() + velocity.tobytes()
        if values != self._same:
            self._same, self._same_since = values, now
            self._low = self._high = None
            return ""
        lasted = now - self._same_since
        if lasted < self._frozen_after or self._low is None or self._high is None:
            return ""
        moved = self._high - self._low
        if not (moved > self._threshold).any():
            return ""
        return (
            f"all joints show the same values to the last bit for {lasted:.2f} s, while a command"
            f" moved by {float((moved / self._threshold).max()):.1f} times what has to move a joint"
        )
