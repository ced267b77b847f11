"""StateWatch: whether the LowState messages of a Go2 can be trusted, and what they warn of."""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any, NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.unitree.low_level import FOC, MOTORS

N = len(MOTORS)
MAX_POSITION = 20.0  # [rad] that a reading may show
MAX_SPEED = 200.0  # [rad/s]
NORM_TOLERANCE = 0.1  # of a quaternion's norm
TILTED_READINGS = 3  # in a row: one wrong reading must not drop a walking robot
LOST_WINDOW = 0.5  # [s]
MAX_LOST = 3  # messages of one motor lost in that time
CONTROL_TIME = 0.5  # [s] until a motor that is commanded reports its mode as FOC, as others do
REST_SPEED = 0.3  # [rad/s] of joints that stand still
HOT_TIME = 0.05  # [s] above the limit
FROZEN_AFTER = 0.1  # [s] without any change of any value
STILL_AFTER = 0.5  # [s] without any change of one motor's values
STILL_TARGET = 0.1  # [rad] by which its target moved in that time


class DriverFault(str, Enum):
    """What ends that commands are followed."""

    NO_COMMAND = "no_command"
    STATE_LOST = "state_lost"
    STATE_FROZEN = "state_frozen"
    TILTED = "tilted"
    MOTOR_LOST = "motor_lost"
    TOO_HOT = "too_hot"
    SECOND_WRITER = "second_writer"
    MODE_TAKEN = "mode_taken"
    STALLED = "stalled"
    INTERNAL = "internal"


class Problem(NamedTuple):
    """A fault, and a sentence about it."""

    fault: DriverFault
    text: str


class StateWatch:
    """Takes the messages of one robot.

    Args:
        max_age: older readings are lost [s].
        tilt_limit: largest tilt of the base [rad].
        max_temperature: of a motor [degrees Celsius].
    """

    def __init__(self, max_age: float, tilt_limit: float, max_temperature: float) -> None:
        self._max_age, self._tilt_limit = max_age, tilt_limit
        self._max_temperature = max_temperature
        self.record: Any = None  # the newest usable LowState
        self.position: FloatArray = np.full(N, np.nan)  # of the motors [rad]
        self.taken_at = -np.inf  # [s]
        self.taken = self.refused = 0
        self.refusal = ""  # why the newest refused message could not be used
        self.tilt = 0.0  # [rad]
        self._tilted = 0  # readings in a row
        self._hot_since = np.inf
        self._values = b""
        self._changed_at = -np.inf
        self._lost_before: np.ndarray[Any, Any] | None = None  # counts of the reading before
        self._losses: deque[tuple[float, np.ndarray[Any, Any]]] = deque()  # time, messages lost
        self._motor_values = np.zeros((3, N), np.uint32)
        self._motor_changed_at = np.full(N, -np.inf)
        self._target_moved = np.zeros(N)  # [rad] since a motor's values have changed
        self._still_target = np.full(N, np.nan)
        self._controlled = np.zeros(N, dtype=bool)  # motors that have reported their mode as FOC
        self._uncontrolled = 0  # readings in a row
        self._commanded_since = np.inf
        self._moved_at = -np.inf  # when a joint was faster than REST_SPEED last

    def refuse(self, text: str) -> None:
        """Count a message that cannot be used.

        Args:
            text: why.
        """
        self.refused += 1
        self.refusal = text

    def take(self, record: Any, now: float) -> bool:
        """Take a message; return whether it can be used.

        Args:
            record: of LOW_STATE.
            now: steady time [s].
        """
        motors, imu = record["motor_state"][:N], record["imu_state"]
        position, speed = motors["q"].astype(float), motors["dq"].astype(float)
        quaternion = imu["quaternion"].astype(float)
        sensed = np.concatenate((imu["gyroscope"], imu["accelerometer"], motors["tau_est"]))
        with np.errstate(invalid="ignore", over="ignore"):
            usable = (
                (np.abs(position) <= MAX_POSITION).all()
                and (np.abs(speed) <= MAX_SPEED).all()
                and abs(float(quaternion @ quaternion) ** 0.5 - 1) <= NORM_TOLERANCE
                and np.isfinite(sensed).all()
            )
        if not usable:
            self.refuse(_why_unusable(position, speed, quaternion))
            return False
        restarted = now - self.taken_at > self._max_age
        self.record, self.position = record, position
        self.taken_at, self.taken = now, self.taken + 1
        self._take_tilt(quaternion)
        self._take_changes(motors, imu, now, restarted)
        self._take_motors(motors, now, restarted)
        return True

    def _take_tilt(self, quaternion: FloatArray) -> None:
        x, y = (quaternion / np.linalg.norm(quaternion))[1:3]
        self.tilt = float(np.arccos(np.clip(1 - 2 * (x * x + y * y), -1, 1)))
        self._tilted = self._tilted + 1 if self.tilt > self._tilt_limit else 0

    def _take_changes(self, motors: Any, imu: Any, now: float, restarted: bool) -> None:
        measured = np.stack([motors["q"], motors["dq"], motors["tau_est"]])
        values = measured.tobytes() + imu["gyroscope"].tobytes() + imu["accelerometer"].tobytes()
        if values != self._values or restarted:
            self._values, self._changed_at = values, now
        bits = measured.view(np.uint32)
        changed = (bits != self._motor_values).any(axis=0) | restarted
        self._motor_values = bits
        self._motor_changed_at[changed] = now
        self._target_moved[changed] = 0.0
        self._still_target[changed] = np.nan

    def _take_motors(self, motors: Any, now: float, restarted: bool) -> None:
        lost = motors["lost"].astype(np.int64)
        if self._lost_before is not None and not restarted:
            more = lost - self._lost_before
            if (more > 0).any():  # a counter that goes back has begun anew
                self._losses.append((now, np.maximum(more, 0)))
        self._lost_before = lost
        while self._losses and now - self._losses[0][0] > LOST_WINDOW:
            self._losses.popleft()
        if np.abs(motors["dq"]).max() > REST_SPEED or restarted:
            self._moved_at = now
        hot = motors["temperature"].max() > self._max_temperature
        self._hot_since = min(self._hot_since, now) if hot else np.inf
        controlled = motors["mode"] == FOC
        left = self._controlled & ~controlled
        if controlled.any() and now - self._commanded_since > CONTROL_TIME:
            left |= ~controlled  # it never was
        self._uncontrolled = self._uncontrolled + 1 if left.any() else 0
        self._controlled |= controlled

    def take_target(self, target: FloatArray) -> None:
        """Take the commanded positions, while commands are followed.

        Args:
            target: of the motors, shape (12,) [rad].
        """
        new = np.isnan(self._still_target)
        self._still_target[new] = target[new]
        moved = np.abs(target - self._still_target)
        self._target_moved = np.maximum(self._target_moved, moved)

    def begin_commands(self, now: float) -> None:
        """Begin anew to judge motors: they are commanded from now on.

        Args:
            now: steady time [s].
        """
        self.forget_motors()
        self._commanded_since = now

    def forget_motors(self) -> None:
        """Forget what was seen of the motors: somebody else had them."""
        self._commanded_since = np.inf
        self._target_moved[:] = 0.0
        self._still_target[:] = np.nan
        self._controlled[:] = False
        self._uncontrolled = 0

    def still(self, now: float) -> float:
        """Return for how long all joints have stood still, 0 without a fresh reading [s].

        Args:
            now: steady time [s].
        """
        return now - self._moved_at if self.age(now) <= self._max_age else 0.0

    def frozen_problem(self, now: float) -> Problem | None:
        """Return the problem that no value changes, None: there is none.

        Args:
            now: steady time [s].
        """
        if (since := now - self._changed_at) <= FROZEN_AFTER:
            return None
        return Problem(
            DriverFault.STATE_FROZEN,
            f"no value of the LowState messages has changed for {since:.2f} s",
        )

    def age(self, now: float) -> float:
        """Return the age of the newest usable message [s]; infinite: there is none.

        Args:
            now: steady time [s].
        """
        return now - self.taken_at

    def problem(self, now: float) -> Problem | None:
        """Return the worst problem now, None: there is none.

        Args:
            now: steady time [s].
        """
        if self.record is not None and self._tilted >= TILTED_READINGS:
            tilt, limit = np.degrees(self.tilt), np.degrees(self._tilt_limit)
            return Problem(
                DriverFault.TILTED, f"the base is tilted by {tilt:.0f} of at most {limit:.0f} deg"
            )
        if self.age(now) > self._max_age:
            seen = "ever" if self.record is None else f"for {self.age(now):.2f} s"
            more = (
                f"; {self.refused} were refused, the last: {self.refusal}" if self.refused else ""
            )
            return Problem(DriverFault.STATE_LOST, f"no usable LowState {seen}{more}")
        if self._losses:
            lost = np.sum([each for _, each in self._losses], axis=0)
            worst = int(lost.argmax())
            if lost[worst] >= MAX_LOST:
                text = f"{MOTORS[worst]} lost {lost[worst]} messages within {LOST_WINDOW:g} s"
                return Problem(DriverFault.MOTOR_LOST, text)
        if self._uncontrolled >= TILTED_READINGS:
            modes = self.record["motor_state"]["mode"][:N]
            left = [m for m, mode in zip(MOTORS, modes, strict=True) if mode != FOC]
            return Problem(
                DriverFault.MOTOR_LOST, f"{', '.join(left)}: not in mode {FOC}, unlike others"
            )
        if now - self._hot_since > HOT_TIME:
            degrees = self.record["motor_state"]["temperature"][:N]
            worst = int(degrees.argmax())
            return Problem(
                DriverFault.TOO_HOT,
                f"{MOTORS[worst]} has {degrees[worst]} of at most {self._max_temperature:g} deg C",
            )
        return None

    def problem_while_commanded(self, now: float) -> Problem | None:
        """Return a problem that only shows while motors are commanded, None: there is none.

        Args:
            now: steady time [s].
        """
        if (frozen := self.frozen_problem(now)) is not None:
            return frozen
        still = (now - self._motor_changed_at > STILL_AFTER) & (self._target_moved > STILL_TARGET)
        if still.any():
            names = ", ".join(MOTORS[i] for i in np.flatnonzero(still))
            return Problem(
                DriverFault.MOTOR_LOST,
                f"{names}: no value has changed for {STILL_AFTER:g} s, although its target moved",
            )
        return None


def _why_unusable(position: FloatArray, speed: FloatArray, quaternion: FloatArray) -> str:
    """Return what is wrong with a reading, as a phrase."""
    for what, values, limit, unit in (
        ("q", position, MAX_POSITION, "rad"),
        ("dq", speed, MAX_SPEED, "rad/s"),
    ):
        for motor, value in zip(MOTORS, values, strict=True):
            if not abs(value) <= limit:
                return f"{what} of {motor}: expected at most {limit:g} {unit}, got {value:g}"
    norm = float(quaternion @ quaternion) ** 0.5
    if not abs(norm - 1) <= NORM_TOLERANCE:
        return f"imu_state.quaternion: expected a norm of 1, got {norm:g}"
    return "gyroscope, accelerometer, tau_est: expected finite numbers"
