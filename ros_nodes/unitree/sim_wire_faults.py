"""Faults that a simulated Go2 can have, named in unitree_sim's parameter `fault`.

LowState:

freeze              a hung robot: all values stay, bit for bit; tick and checksum go on
silent              none is sent
slow:HZ             they come at this rate
crc                 one bit of each is wrong, a small error of the first motor's position
crc_once            the same, in one single message
quaternion          the imu's orientation is NaN
tilt:DEGREES        the imu's orientation is rolled by this angle

Motors:

lost:MOTOR          its messages are lost: the counter rises, its values stay
hot:MOTOR:DEGREES   its temperature [degrees Celsius]
left:MOTOR          it has left its mode by itself: 0

The robot's own controllers:

writer              a second writer of LowCmd, which damps the motors 100 times a second
mode_back           a controller of the robot's own takes the motors, at once
mode_stays          a request to release the motors is answered, and not obeyed
no_answer           requests to services are not answered

Wireless remote:

remote_silent       all its bytes are 0
remote_frozen       its bytes stay as they are
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.low_level import CDR_HEADER, LOW_STATE, LOW_STATE_LAYOUT, MOTORS
from ros_nodes.unitree.sim_state import roll_pitch_yaw


class _Form(NamedTuple):
    """The arguments of a fault."""

    motor: bool = False
    limits: tuple[float, float] | None = None  # of its number; None: it has no number


FORMS = {
    "freeze": _Form(),
    "silent": _Form(),
    "slow": _Form(limits=(0.1, 500.0)),
    "crc": _Form(),
    "crc_once": _Form(),
    "quaternion": _Form(),
    "tilt": _Form(limits=(-180.0, 180.0)),
    "lost": _Form(motor=True),
    "hot": _Form(motor=True, limits=(0.0, 255.0)),
    "left": _Form(motor=True),
    "writer": _Form(),
    "mode_back": _Form(),
    "mode_stays": _Form(),
    "no_answer": _Form(),
    "remote_silent": _Form(),
    "remote_frozen": _Form(),
}


class WireFault:
    """One fault, parsed.

    Args:
        text: see the module's docstring; empty: none.

    Raises:
        InputError: there is no such fault.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.kind, *rest = text.split(":") if text else [""]
        self._motor, self._number = 0, 0.0
        if text:
            self._parse(text, rest)
        self._first: Any = None  # the first message with the fault
        self._damaged = 0

    def _parse(self, text: str, rest: list[str]) -> None:
        try:
            form = FORMS[self.kind]
            if form.motor:
                self._motor = MOTORS.index(rest.pop(0))
            if form.limits is not None:
                self._number = float(rest.pop(0))
                low, high = form.limits
                if not low <= self._number <= high:  # NaN too
                    raise ValueError
            if rest:
                raise ValueError
        except (KeyError, ValueError, IndexError):
            raise InputError(_expected(self.kind, text), code="parameter") from None

    def period(self, period: float) -> float:
        """Return the time between two messages [s].

        Args:
            period: without a fault [s].
        """
        return 1 / self._number if self.kind == "slow" else period

    def alter(self, fields: Any) -> None:
        """Change the values of a LowState.

        Args:
            fields: record of LOW_STATE.
        """
        if self._first is None:
            self._first = np.frombuffer(fields.tobytes(), fields.dtype)[0]
        motor, imu = fields["motor_state"][self._motor], fields["imu_state"]
        match self.kind:
            case "freeze":
                tick = int(fields["tick"])
                for name in fields.dtype.names:
                    fields[name] = self._first[name]
                fields["tick"] = tick
            case "lost":
                counted = int(motor["lost"]) + 1
                fields["motor_state"][self._motor] = self._first["motor_state"][self._motor]
                motor["lost"] = counted
            case "hot":
                motor["temperature"] = round(self._number)
            case "left":
                motor["mode"] = 0
            case "tilt":
                imu["quaternion"] = rolled(imu["quaternion"].astype(float), self._number)
                imu["rpy"] = roll_pitch_yaw(imu["quaternion"])
            case "quaternion":
                imu["quaternion"] = math.nan
            case "remote_silent":
                fields["wireless_remote"] = 0
            case "remote_frozen":
                fields["wireless_remote"] = self._first["wireless_remote"]

    def damage(self, data: bytes) -> bytes | None:
        """Return what is sent instead of a serialized LowState; None: nothing."""
        if self.kind == "silent":
            return None
        if self.kind == "crc" or (self.kind == "crc_once" and not self._damaged):
            self._damaged += 1
            return data[:_Q_AT] + bytes([data[_Q_AT] ^ 1]) + data[_Q_AT + 1 :]
        return data


def _first_position() -> int:
    """Return where the lowest byte of the first motor's q stands in a serialized LowState."""
    array = np.zeros(1, LOW_STATE)
    array["motor_state"]["q"][0, 0] = np.finfo(np.float32).smallest_subnormal  # its lowest bit
    return LOW_STATE_LAYOUT.serialize(array.tobytes()).index(1, len(CDR_HEADER))


_Q_AT = _first_position()


def rolled(quaternion: FloatArray, degrees: float) -> FloatArray:
    """Return an orientation after a roll about its own x axis, w x y z, shape (4,).

    Args:
        quaternion: w x y z, shape (4,).
        degrees: of the roll [degrees].
    """
    w, x, y, z = quaternion
    cos, sin = math.cos(math.radians(degrees) / 2), math.sin(math.radians(degrees) / 2)
    return np.array([w * cos - x * sin, x * cos + w * sin, y * cos + z * sin, z * cos - y * sin])


def _expected(kind: str, text: str) -> str:
    """Return a sentence for a parse error: the form of this fault, or the names of all."""
    if kind not in FORMS:
        return f"parameter fault: expected one of {', '.join(FORMS)}, got {text!r}"
    form, words, parts = FORMS[kind], kind, []
    if form.motor:
        words += ":MOTOR"
        parts.append(f"a motor out of {', '.join(MOTORS)}")
    if form.limits is not None:
        words += ":NUMBER"
        parts.append(f"a number from {form.limits[0]:g} to {form.limits[1]:g}")
    tail = f" with {' and '.join(parts)}" if parts else ""
    return f"parameter fault: expected {words}{tail}, got {text!r}"
