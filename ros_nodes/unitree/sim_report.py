"""SimReport: what a simulated Go2 has received and how it moves, as one line of JSON a second."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from ros_nodes.unitree.sim_checks import KINDS, WrongCommand
from ros_nodes.unitree.sim_robot import MotorCommand, SimRobot
from ros_nodes.unitree.sim_state import roll_pitch_yaw

PAUSE = 1.0  # [s] without a command after which the next one begins a new stream
BEFORE_RELEASE = "before_release"  # a correct command while the robot's own controller acts


class SimReport:
    """Counts, and writes.

    Args:
        robot: the simulated robot.
        file: that is replaced by each report; None: standard output.
    """

    def __init__(self, robot: SimRobot, file: Path | None) -> None:
        self._robot, self._file = robot, file
        self.applied = self.timeouts = self.states = 0
        self.dropped = 0.0  # [s] that the simulation was behind the wall clock
        self.errors = dict.fromkeys((*KINDS, BEFORE_RELEASE), 0)
        self.last_error = ""
        self._gap = 0.0  # largest between two commands [s]
        self._writers: set[bytes] = set()
        self._commands = 0
        self._arrived_at = -math.inf
        self._gains = (0.0, 0.0)
        self._begin(time.monotonic())

    def _begin(self, now: float) -> None:
        """Begin a new interval."""
        self._since, self._place = now, self._robot.place.copy()
        self._counts = self._commands, self.states
        self._interval_gap = 0.0
        self._heading = float(roll_pitch_yaw(self._robot.orientation)[2])

    def arrived(self, writer: bytes, at: float) -> None:
        """Count a message, whatever it says.

        Args:
            writer: id of its publisher.
            at: when it arrived, on any steady clock [s].
        """
        gap, self._arrived_at = at - self._arrived_at, at
        if gap < PAUSE:
            self._gap, self._interval_gap = max(self._gap, gap), max(self._interval_gap, gap)
        self._writers.add(writer)
        self._commands += 1

    def took(self, command: MotorCommand) -> None:
        """Count a command that is followed."""
        self.applied += 1
        self._gains = float(command.stiffness[0]), float(command.damping[0])

    def refused(self, error: WrongCommand) -> None:
        """Count a command that is not followed."""
        self.errors[error.kind] += 1
        self.last_error = f"{error.kind}: {error.text}"

    def line(self, now: float, mode: str, age: float, fault: str) -> str:
        """Return the report of the interval that ends now, and begin a new one.

        Args:
            now: wall clock, steady [s].
            mode: the robot's own controller that has the motors; empty: none.
            age: of the command that is followed [s]; infinite: there is none.
            fault: that is injected.
        """
        robot, seconds = self._robot, max(1e-6, now - self._since)
        roll, pitch, yaw = roll_pitch_yaw(robot.orientation).tolist()
        moved = robot.place - self._place
        ahead = float(moved[0] * math.cos(self._heading) + moved[1] * math.sin(self._heading))
        kp, kd = self._gains
        content: dict[str, Any] = {
            "time": round(robot.time, 3),
            "commands": self._commands,
            "applied": self.applied,
            "errors": {kind: count for kind, count in self.errors.items() if count},
            "last_error": self.last_error,
            "rate": round((self._commands - self._counts[0]) / seconds, 1),
            "gap_ms": round(1000 * self._interval_gap, 2),
            "largest_gap_ms": round(1000 * self._gap, 2),
            "timeouts": self.timeouts,
            "age_ms": None if math.isinf(age) else round(1000 * age, 1),
            "kp": round(kp, 3) if age < math.inf else None,
            "kd": round(kd, 3) if age < math.inf else None,
            "writers": len(self._writers),
            "mode": mode,
            "fault": fault,
            "height": round(float(robot.place[2]), 4),
            "tilt_deg": round(math.degrees(math.acos(math.cos(roll) * math.cos(pitch))), 2),
            "place": np.round(robot.place[:2], 3).tolist(),
            "yaw_deg": round(math.degrees(yaw), 1),
            "moved": np.round(moved[:2], 3).tolist(),
            "turned_deg": round(math.degrees(math.remainder(yaw - self._heading, math.tau)), 1),
            "forward_speed": round(ahead / seconds, 3),
            "torque": round(float(np.abs(robot.torque).max()), 2),
            "state_rate": round((self.states - self._counts[1]) / seconds, 1),
            "dropped": round(self.dropped, 3),
        }
        self._begin(now)
        return json.dumps(content)

    def write(self, line: str) -> None:
        """Write a report.

        Args:
            line: see `line`.
        """
        if self._file is None:
            print(line, flush=True)
            return
        new = self._file.with_name(f".{self._file.name}.new")
        new.write_text(line + "\n")
        os.replace(new, self._file)  # noqa: PTH105 - a reader never sees half of it
