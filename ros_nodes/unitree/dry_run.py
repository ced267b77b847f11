"""DryRunTable: the readings of a Go2, joint by joint, to compare with the robot by hand."""

from __future__ import annotations

import math

import numpy as np

from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.unitree.low_level import MOTORS
from dime_robot.runtime.unitree.motors import Motors
from dime_robot.runtime.unitree.remote import AXES, BUTTONS, Remote
from dime_robot.runtime.unitree.state_watch import StateWatch

PERIOD = 1.0  # [s] between two tables
N = len(MOTORS)


class DryRunTable:
    """Prints a table once a second.

    Args:
        motors: of the policy and the machine.
        robot: the machine.
    """

    def __init__(self, motors: Motors, robot: RobotConfig) -> None:
        self._motors, self._robot = motors, robot
        self._due = 0.0
        self._remote = Remote(0.0)
        self._least = np.full(N, np.inf)  # positions since the start [rad]
        self._most = np.full(N, -np.inf)

    def show(self, watch: StateWatch, now: float, rate: float) -> None:
        """Print the newest readings, if a table is due.

        Args:
            watch: has them.
            now: steady time [s].
            rate: of LowState [Hz].
        """
        if watch.record is not None:
            position = self._motors.in_policy_terms(watch.position)
            self._least = np.minimum(self._least, position)
            self._most = np.maximum(self._most, position)
        if now < self._due:
            return
        self._due = now + PERIOD
        print("\n".join(self.lines(watch, now, rate)), flush=True)

    def lines(self, watch: StateWatch, now: float, rate: float) -> list[str]:
        """Return the table as lines of text.

        Args:
            watch: has the newest readings.
            now: steady time [s].
            rate: of LowState [Hz].
        """
        problem = watch.problem(now)
        status = "readings are usable" if problem is None else problem.text
        head = f"LowState {rate:.0f} Hz, {watch.refused} refused; {status}"
        if watch.record is None:
            return [head]
        motors, imu = watch.record["motor_state"][:N], watch.record["imu_state"]
        position = self._motors.in_policy_terms(watch.position)
        lines = [
            "",
            head,
            "motor joint           position  moved from     to   stops           default  velocity"
            "  torque  deg C  lost",
        ]
        for i, name in enumerate(self._motors.names):
            low, high = self._robot.joint(name).position_limits or (-math.inf, math.inf)
            mark = " " if low <= position[i] <= high else "!"
            lines.append(
                f"{i:5d} {name:15s} {position[i]:9.3f}{mark} {self._least[i]:9.3f}"
                f" {self._most[i]:7.3f}   {low:6.2f} {high:6.2f} {self._motors.default[i]:9.2f}"
                f" {self._motors.sign[i] * motors['dq'][i]:9.2f}"
                f" {self._motors.sign[i] * motors['tau_est'][i]:7.2f}"
                f" {motors['temperature'][i]:6d} {motors['lost'][i]:5d}"
            )
        w, x, y, z = imu["quaternion"].astype(float)
        down = (2 * (w * y - x * z), -2 * (y * z + w * x), 2 * (x * x + y * y) - 1)
        lines.append(
            "gravity in the base's frame (level: 0 0 -1; nose down: x > 0; left side down: y > 0):"
            f" {down[0]:.2f} {down[1]:.2f} {down[2]:.2f}"
        )
        lines.append(self._remote_line(watch, now))
        turn, pull = imu["gyroscope"], imu["accelerometer"]
        lines.append(
            f"gyro {turn[0]:.2f} {turn[1]:.2f} {turn[2]:.2f} rad/s (turning left: z > 0), "
            f"accelerometer {pull[0]:.1f} {pull[1]:.1f} {pull[2]:.1f} m/s2 (level: z = +9.8)"
        )
        return lines

    def _remote_line(self, watch: StateWatch, now: float) -> str:
        read = self._remote.read(watch.record["wireless_remote"].tobytes(), now)
        if read is None:
            return "remote: silent"
        axes = "  ".join(f"{name} {value:+.2f}" for name, value in zip(AXES, read[0], strict=True))
        held = [name for name, value in zip(BUTTONS, read[1], strict=True) if value]
        return f"remote (left and up are positive): {axes}  held: {' '.join(held) or 'none'}"
