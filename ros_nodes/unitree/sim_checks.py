"""CommandChecks: whether a LowCmd is one that a Go2 must not misunderstand.

Stricter than a robot need be: it is there to find a driver's mistakes before a robot does. What a
Go2 itself checks is not published, but for the checksum. A Go2 has twelve motors and a LowCmd room
for twenty: the eight others are idle, as in Unitree's own examples (unitree_sdk2_python,
example/go2/low_level).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.low_level import (
    CDR_HEADER,
    FOC,
    HEAD,
    LOW_CMD_LAYOUT,
    LOW_LEVEL,
    MOTORS,
    N_MOTORS,
    POSITION_STOP,
    VELOCITY_STOP,
)
from ros_nodes.unitree.sim_robot import MotorCommand

N = len(MOTORS)
MAX_STIFFNESS, MAX_DAMPING = 100.0, 10.0  # [N m/rad], [N m s/rad]
MAX_POSITION, MAX_VELOCITY, MAX_TORQUE = 10.0, 50.0, 50.0  # [rad], [rad/s], [N m]
NUMBERS: Final = ("q", "dq", "tau", "kp", "kd")
UNUSED: Final = (  # fields that a driver leaves 0
    "frame_reserve", "sn", "version", "bandwidth", "bms_cmd", "wireless_remote", "led", "fan",
    "gpio", "reserve",
)  # fmt: skip
KINDS: Final = (
    "length", "padding", "crc", "head", "level_flag", "unused", "mode", "finite", "range", "gains",
    "stop", "idle",
)  # fmt: skip


class WrongCommand(NamedTuple):
    """A LowCmd that is not applied."""

    kind: str
    """One of `KINDS`."""
    text: str


class CommandChecks:
    """Reads messages; each is applied as a whole or not at all."""

    def __init__(self) -> None:
        ones = CDR_HEADER + b"\xff" * (LOW_CMD_LAYOUT.size - len(CDR_HEADER))
        fields = LOW_CMD_LAYOUT.serialize(LOW_CMD_LAYOUT.deserialize(ones).tobytes())
        self._padding = ~np.frombuffer(fields, np.uint8)
        self._padding[: len(CDR_HEADER)] = 0  # its last two bytes are the encoder's
        self._idle = np.zeros(N_MOTORS - N, LOW_CMD_LAYOUT.struct["motor_cmd"].base)
        self._idle["q"], self._idle["dq"] = POSITION_STOP, VELOCITY_STOP

    def read(self, data: bytes) -> MotorCommand | WrongCommand:
        """Return what a message commands, or what is wrong with it.

        Args:
            data: serialized, as the middleware hands it over.
        """
        try:
            array = LOW_CMD_LAYOUT.deserialize(data)
        except InputError as error:
            return WrongCommand("length", str(error))
        between = np.flatnonzero(np.frombuffer(data, np.uint8) & self._padding)
        if len(between):
            return WrongCommand("padding", f"byte {between[0]} is between two fields and not 0")
        found, expected = array[0], LOW_CMD_LAYOUT.crc(array.tobytes())
        if int(found["crc"]) != expected:
            return WrongCommand("crc", f"expected {expected:#010x}, got {int(found['crc']):#010x}")
        wrong = _wrong_frame(found) or _wrong_motors(found["motor_cmd"][:N])
        if wrong is not None:
            return wrong
        idle = found["motor_cmd"][N:]
        for name in (*NUMBERS, "reserve"):
            if (idle[name] != self._idle[name]).any():
                return WrongCommand("idle", f"{name} of the motors {N} to {N_MOTORS - 1}")
        motors = found["motor_cmd"][:N]
        q, dq, tau, kp, kd = (motors[name].astype(float) for name in NUMBERS)
        return MotorCommand(q, dq, tau, kp, kd)


def _wrong_frame(found: Any) -> WrongCommand | None:
    """Return what is wrong outside the motors."""
    if tuple(found["head"]) != HEAD:
        return WrongCommand("head", f"expected {HEAD}, got {tuple(map(int, found['head']))}")
    if found["level_flag"] != LOW_LEVEL:
        return WrongCommand("level_flag", f"expected {LOW_LEVEL}, got {found['level_flag']}")
    for name in UNUSED:
        if any(found[name].tobytes()):
            return WrongCommand("unused", f"{name} is not 0")
    return None


def _wrong_motors(motors: Any) -> WrongCommand | None:
    """Return what is wrong with the twelve motors."""
    if (motors["mode"] != FOC).any():
        return WrongCommand("mode", _first("mode", motors, motors["mode"] != FOC))
    if motors["reserve"].any():
        return WrongCommand("unused", "reserve of a motor is not 0")
    for name in NUMBERS:
        if not np.isfinite(motors[name]).all():
            return WrongCommand("finite", _first(name, motors, ~np.isfinite(motors[name])))
    for name, high in (("kp", MAX_STIFFNESS), ("kd", MAX_DAMPING)):
        beyond = (motors[name] < 0) | (motors[name] > high)
        if beyond.any():
            return WrongCommand("gains", _first(name, motors, beyond))
    stopped = {"q": motors["q"] == np.float32(POSITION_STOP), "dq": motors["dq"] == VELOCITY_STOP}
    for name, gain in (("q", "kp"), ("dq", "kd")):  # a gain would make it a huge torque
        held = stopped[name] & (motors[gain] != 0)
        if held.any():
            return WrongCommand("stop", _first(gain, motors, held))
    limits = {"q": MAX_POSITION, "dq": MAX_VELOCITY, "tau": MAX_TORQUE}
    for name, limit in limits.items():
        beyond = (np.abs(motors[name]) > limit) & ~stopped.get(name, np.zeros(N, bool))
        if beyond.any():
            return WrongCommand("range", _first(name, motors, beyond))
    return None


def _first(name: str, motors: Any, wrong: Any) -> str:
    """Return the first motor's wrong value, as a phrase."""
    motor = int(np.flatnonzero(wrong)[0])
    return f"{name} of {MOTORS[motor]} is {motors[name][motor]:g}"
