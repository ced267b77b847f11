"""LowCmdWriter: what the motors of a Go2 are sent, as a serialized LowCmd."""

from __future__ import annotations

from dime_robot.runtime.unitree.driver_loop import MotorTargets
from dime_robot.runtime.unitree.low_level import (
    FOC,
    LOW_CMD_LAYOUT,
    LOW_LEVEL,
    MOTORS,
    POSITION_STOP,
    VELOCITY_STOP,
    Frame,
)

N = len(MOTORS)


class LowCmdWriter:
    """Fills the one LowCmd that is sent again and again."""

    def __init__(self) -> None:
        self._frame = Frame(LOW_CMD_LAYOUT)
        fields = self._frame.fields
        fields["level_flag"] = LOW_LEVEL
        motors = fields["motor_cmd"]
        motors["mode"] = FOC
        motors["q"] = POSITION_STOP  # of the idle motors too, as Unitree's examples send it
        motors["dq"] = VELOCITY_STOP
        motors["dq"][:N] = 0.0
        self._motors = motors[:N]

    def write(self, targets: MotorTargets) -> bytes:
        """Return the serialized message of what the motors are sent."""
        self._motors["q"] = targets.position
        self._motors["kp"] = targets.stiffness
        self._motors["kd"] = targets.damping
        return self._frame.sealed()
