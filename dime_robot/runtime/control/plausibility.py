"""ReadingCheck: can this reading follow the one before, and does it follow the commands?

Pure: stamps are handed in. A single impossible reading is rejected; several in a row are no glitch
but an encoder that slipped or a second robot on the topic, and stay a fault until `restart`.
"""

from __future__ import annotations

import math

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.safety_filter import SPEED_TOLERANCE

JUMP_SLACK = 0.05  # [rad or m] of a reading that noise and coarse encoders explain
UNSEEN_SPEED = 0.5  # share of its largest speed that a joint may have had between two readings
TURN_SLACK = 0.1  # [rad] of an orientation
FROZEN_MULTIPLE = 5.0  # of resolution and dead band, that a command moves without any answer
FROZEN_EFFORT = 0.2  # share of the effort limit that an effort varies by without any answer,
EFFORT_PATIENCE = 4.0  # for so many times as long: friction may hold what an effort would move


class ReadingCheck:
    """Jumps and frozen values.

    Args:
        spec: the policy's contract.
        robot: the machine, found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        self._names = [joint.name for joint in spec.joints]
        joints = [robot.joint(name) for name in self._names]
        self._speed = SPEED_TOLERANCE * np.array([joint.velocity_limit for joint in joints])
        self._unseen = UNSEEN_SPEED / SPEED_TOLERANCE * self._speed
        self._turning = np.array(
            [
                joint.type == "revolute" and own.position_limits is None
                for joint, own in zip(spec.joints, joints, strict=True)
            ]
        )
        self._turns = bool(self._turning.any())
        self._least = 1.0 / robot.state.rate  # [s]: stamps of a burst tell no speed
        self._many = robot.safety.consecutive_jumps
        self._gyro = SPEED_TOLERANCE * (robot.imu.max_rate if robot.imu else np.inf)
        self._frozen_after = robot.state.frozen_after
        self._kind = spec.action.kind
        # what a command has to move by before the joints must have moved [N m, N, rad, m]
        threshold = FROZEN_MULTIPLE * (robot.state.resolution + robot.state.dead_band)
        self._threshold = np.full(len(spec.action_joints), threshold)
        if self._kind == "effort":
            limits = [robot.joint(name).effort_limit or np.inf for name in spec.action_joints]
            self._threshold = FROZEN_EFFORT * np.array(limits)
            self._frozen_after *= EFFORT_PATIENCE
        self.restart()

    def restart(self) -> None:
        """Take the next reading for good."""
        self.broken = ""  # why readings are not believed any more; empty: they are
        self._steady = 0  # readings since then that could follow one another
        self._position: FloatArray | None = None  # of the last reading that was believed
        self._fastest: FloatArray = np.zeros(len(self._names))  # of it, |velocity|
        self._suspect: FloatArray | None = None  # of the last one that was rejected
        self._stamp = self._orientation_stamp = 0.0
        self._orientation: FloatArray | None = None
        self._rejected = 0
        self._same: bytes | None = None  # the joints' values, while they stay the same
        self._same_since = 0.0
        self._low: FloatArray | None = None  # of the commands since then
        self._high: FloatArray | None = None

    def jump(self, position: FloatArray, velocity: FloatArray, stamp: float) -> str:
        """Why positions cannot follow those before, as a phrase; empty: they can.

        A joint moves no faster than 1.5 times its largest speed, and where it is slow at both ends
        no faster than half of that speed on top of 1.5 times what it measures.

        Args:
            position: in policy order, shape (n_joints,) [rad or m].
            velocity: in policy order, shape (n_joints,) [rad/s or m/s].
            stamp: when they were measured [s].
        """
        before, fastest = self._position, np.abs(velocity)
        if before is None:
            if np.isfinite(position).all():
                self._position, self._stamp, self._fastest = position, stamp, fastest
            return ""
        change = self._distance(position, before)
        elapsed = max(stamp - self._stamp, self._least)
        measured = SPEED_TOLERANCE * np.maximum(fastest, self._fastest)
        speed = np.fmin(self._speed, measured + self._unseen)  # a NaN has its own fault
        allowed = speed * elapsed + JUMP_SLACK
        jumped = not (change <= allowed).all()
        if jumped and not np.isfinite(position).all():
            return ""  # what is not finite has its own fault
        if self._suspect is not None and not jumped:
            # time alone makes no slipped encoder possible: it stays where it was rejected
            jumped = bool((change > self._distance(position, self._suspect) + JUMP_SLACK).any())
        if not jumped or self.broken:
            self._position, self._stamp, self._suspect = position, stamp, None
            self._fastest = fastest
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

    def _distance(self, position: FloatArray, other: FloatArray) -> FloatArray:
        change: FloatArray = position - other
        if self._turns:
            wrapped = np.remainder(change + np.pi, 2 * np.pi) - np.pi
            change = np.where(self._turning, wrapped, change)
        return np.abs(change)

    def turn(self, orientation: FloatArray, stamp: float) -> str:
        """The same for the base's orientation.

        Args:
            orientation: of the base, w x y z, shape (4,).
            stamp: when it was measured [s].
        """
        square = float(orientation @ orientation)
        if not 0.25 < square < 4:  # has its own fault
            return ""
        length = math.sqrt(square)
        if self._orientation is not None:
            elapsed = max(stamp - self._orientation_stamp, self._least)
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
        """Do readings follow one another again, so that an operator may go on with them?"""
        return self._steady >= self._many

    def _reject(self, why: str) -> str:
        self._rejected += 1
        self._steady = 0
        if self._rejected >= self._many and not self.broken:
            self.broken = f"{why}; {self._rejected} such readings in a row"
        return why

    def commanded(self, value: FloatArray) -> None:
        """Take note of what was sent.

        Args:
            value: shape (n_act,), SI units.
        """
        if self._low is None or self._high is None:
            self._low, self._high = value, value
        else:
            self._low, self._high = np.minimum(self._low, value), np.maximum(self._high, value)

    def frozen(self, position: FloatArray, velocity: FloatArray, now: float) -> str:
        """Why the joints' values count as frozen, as a phrase; empty: they do not.

        Nothing tells which joints a twist moves, so there it says nothing.

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
