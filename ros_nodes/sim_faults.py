"""Faults that a simulated robot can have, named in sim_node's parameter `fault`.

The stream of states:

delay:S         states come S seconds late, stamps true
drop:P          each JointState is lost with probability P
rate:K          states come at K times their rate: 2 twice as often, 0.6 slower
bursts:N        N states come together, 2 ms apart, at the right mean rate, stamps true
stall:S         states pause once, for S seconds
die             the process ends at once, as after a kernel panic

Stamps:

freeze_stamp    the stamp stays constant, the values change
clock:S         stamps are S seconds off from now on; in lockstep /clock too
future          one single stamp is in 2038
no_stamp        the stamp is never set: 0

Joints:

frozen          a hung driver: all values stay, bit for bit, the imu's too; the stamps advance
nan:JOINT       the joint's position reads NaN, as ros2_control shows a missing interface
jump:JOINT:D    the joint's position reads D more (an encoder that slipped) [rad or m]
glitch:JOINT:D  the same for one single reading per second
spin:JOINT:V    the joint's velocity reads V more [rad/s or m/s]
no_velocity     JointState.velocity is empty
permute         the joints come in another order, with their names
missing:JOINT   the joint is not in the message
extra           an unknown joint is in the message

Imu:

no_imu          the imu sends nothing
tilt:DEGREES    the imu reads a base rolled by this angle
quaternion      the orientation is 0 0 0 0, as of a driver that never sets it
no_orientation  orientation_covariance[0] is -1: not measured (REP 145)

Feet:

no_contact      the forces on the feet are not sent
nan_contact     the forces on the feet read NaN

In lockstep a state follows each command, so there `rate` and `bursts` have no effect.
"""

from __future__ import annotations

import math
import os
from array import array
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Float64MultiArray

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.io.errors import InputError
from ros_nodes.conversions import seconds

BURST_SPACING = 0.002  # [s] between two states of a burst
GLITCH_PERIOD = 1.0  # [s] of the stamps
LAST_SECOND = 2.0**31 - 1  # of a stamp, in January 2038 [s]
MAX_NUMBER = 1e6  # of any fault
ANY_NUMBER = (-MAX_NUMBER, MAX_NUMBER)


class _Form(NamedTuple):
    """The arguments of a fault."""

    joint: bool = False
    limits: tuple[float, float] | None = None  # of its number; None: it has no number
    whole: bool = False  # an integer
    imu: bool = False  # needs a robot with an imu
    contact: bool = False  # needs a robot that measures the forces on its feet


FORMS = {
    "delay": _Form(limits=(0.0, 60.0)),
    "drop": _Form(limits=(0.0, 1.0)),
    "rate": _Form(limits=(0.01, 100.0)),
    "bursts": _Form(limits=(2, 1000), whole=True),
    "stall": _Form(limits=(0.0, MAX_NUMBER)),
    "die": _Form(),
    "freeze_stamp": _Form(),
    "clock": _Form(limits=(-LAST_SECOND, LAST_SECOND)),
    "future": _Form(),
    "no_stamp": _Form(),
    "frozen": _Form(),
    "nan": _Form(joint=True),
    "jump": _Form(joint=True, limits=ANY_NUMBER),
    "glitch": _Form(joint=True, limits=ANY_NUMBER),
    "spin": _Form(joint=True, limits=ANY_NUMBER),
    "no_velocity": _Form(),
    "permute": _Form(),
    "missing": _Form(joint=True),
    "extra": _Form(),
    "no_imu": _Form(imu=True),
    "tilt": _Form(limits=(-180.0, 180.0), imu=True),
    "quaternion": _Form(imu=True),
    "no_orientation": _Form(imu=True),
    "no_contact": _Form(contact=True),
    "nan_contact": _Form(contact=True),
}


class InjectedFault:
    """One fault, parsed.

    Args:
        text: see the module's docstring; empty: none.
        joints: their names in the messages.
        has_imu: whether the robot publishes one.
        has_contact: whether it publishes the forces on its feet.

    Raises:
        InputError: there is no such fault, or this robot cannot have it.
    """

    def __init__(
        self, text: str, joints: list[str], has_imu: bool = True, has_contact: bool = True
    ) -> None:
        self.kind, *rest = text.split(":") if text else [""]
        self.joint, self.number = "", 0.0
        if text:
            self._parse(text, rest, joints)
        if text and FORMS[self.kind].imu and not has_imu:
            raise InputError(
                f"parameter fault: expected one that a robot without imu can have, got {text!r}:"
                " add the sections robot.imu and sim.imu to its configuration",
                code="parameter",
            )
        if text and FORMS[self.kind].contact and not has_contact:
            raise InputError(
                "parameter fault: expected one that a robot without forces on its feet can have,"
                f" got {text!r}: add the sections robot.contact and sim.feet to its configuration",
                code="parameter",
            )
        self._random = np.random.default_rng(0)
        self._first: dict[type, Any] = {}  # of each kind, since the fault began
        self._began: float | None = None  # steady time of the first state [s]
        self._next_glitch = -math.inf
        self._shown = False  # a fault that occurs once

    def _parse(self, text: str, rest: list[str], joints: list[str]) -> None:
        try:
            form = FORMS[self.kind]
            if form.joint:
                self.joint = joints[joints.index(rest.pop(0))]
            if form.limits is not None:
                self.number = float(rest.pop(0))
                low, high = form.limits
                in_range = low <= self.number <= high  # False for NaN
                if not in_range or (form.whole and not self.number.is_integer()):
                    raise ValueError
            if rest:
                raise ValueError
        except (KeyError, ValueError, IndexError):
            raise InputError(_expected(self.kind, joints, text), code="parameter") from None

    @property
    def delay(self) -> float:
        """Delay with which states are sent [s]."""
        return self.number if self.kind == "delay" else 0.0

    @property
    def rate(self) -> float:
        """Rate of the states, relative to the robot's."""
        return self.number if self.kind == "rate" else 1.0

    @property
    def burst(self) -> int:
        """Number of states that are sent together."""
        return int(self.number) if self.kind == "bursts" else 1

    def stalls(self, now: float) -> bool:
        """Whether the state at steady time `now` [s] is not sent.

        Args:
            now: steady time [s].
        """
        if self.kind != "stall":
            return False
        if self._began is None:
            self._began = now
        return now - self._began < self.number

    def time(self, time: float) -> float:
        """Return the time on the robot's clock [s], for stamps and, in lockstep, /clock.

        Args:
            time: of the simulation [s].
        """
        return max(0.0, time + self.number) if self.kind == "clock" else time

    def stamp(self, time: float) -> float:
        """Return the stamp [s] of the state at `time` on the robot's clock [s].

        Args:
            time: on the robot's clock [s].
        """
        if self.kind == "no_stamp":
            return 0.0
        if self.kind == "future" and not self._shown:
            self._shown = True
            return LAST_SECOND
        return time

    def joint_state(self, message: JointState) -> JointState | None:
        """Return the message as the robot with the fault sends it; None: it sends none."""
        first = self._first.setdefault(JointState, deepcopy(message)) if self.kind else message
        fields = [message.name, message.position, message.velocity]
        if len(message.effort):
            fields.append(message.effort)
        index = message.name.index(self.joint) if self.joint else -1
        match self.kind:
            case "die":
                os._exit(9)
            case "drop":
                return None if self._random.uniform() < self.number else message
            case "freeze_stamp":
                message.header.stamp = first.header.stamp
            case "frozen":
                message.position, message.velocity = first.position, first.velocity
                message.effort = first.effort
            case "nan":
                message.position[index] = math.nan
            case "jump":
                message.position[index] += self.number
            case "glitch":
                now = seconds(message.header.stamp)
                if now >= self._next_glitch:
                    self._next_glitch = now + GLITCH_PERIOD
                    message.position[index] += self.number
            case "spin":
                message.velocity[index] += self.number
            case "no_velocity":
                message.velocity = array("d")
            case "permute":
                for field in fields:
                    field.reverse()
            case "missing":
                for field in fields:
                    del field[index]
            case "extra":
                message.name.insert(0, "gripper")
                message.position.insert(0, 0.5)
                for values in fields[2:]:
                    values.insert(0, 0.0)
        return message

    def contact(self, message: Float64MultiArray) -> Float64MultiArray | None:
        """Return the message as the robot with the fault sends it; None: it sends none.

        Args:
            message: forces on the feet, shape (n_feet,) [N].
        """
        match self.kind:
            case "no_contact":
                return None
            case "nan_contact":
                message.data = array("d", [math.nan] * len(message.data))
            case "frozen":
                return self._first.setdefault(Float64MultiArray, deepcopy(message))
        return message

    def imu(self, message: Imu) -> Imu | None:
        """Return the message as the robot with the fault sends it; None: it sends none."""
        q = message.orientation
        match self.kind:
            case "no_imu":
                return None
            case "tilt":
                half = math.radians(self.number) / 2
                q.w, q.x, q.y, q.z = math.cos(half), math.sin(half), 0.0, 0.0
            case "quaternion":
                q.w, q.x, q.y, q.z = 0.0, 0.0, 0.0, 0.0
            case "no_orientation":
                message.orientation_covariance[0] = -1.0
            case "frozen":
                first = self._first.setdefault(Imu, deepcopy(message))
                message.orientation = first.orientation
                message.angular_velocity = first.angular_velocity
        return message


def _expected(kind: str, joints: list[str], text: str) -> str:
    """Return a sentence for a parse error: the form of this fault, or the names of all."""
    if kind not in FORMS:
        return f"parameter fault: expected one of {', '.join(FORMS)}, got {text!r}"
    form, words, parts = FORMS[kind], kind, []
    if form.joint:
        words += ":JOINT"
        parts.append(f"a joint out of {', '.join(joints)}")
    if form.limits is not None:
        words += ":NUMBER"
        number = "a whole number" if form.whole else "a number"
        parts.append(f"{number} from {form.limits[0]:g} to {form.limits[1]:g}")
    tail = f" with {' and '.join(parts)}" if parts else ""
    return f"parameter fault: expected {words}{tail}, got {text!r}"


def imu_message(orientation: FloatArray, angular_velocity: FloatArray) -> Imu:
    """Make an Imu message without acceleration.

    Args:
        orientation: of the base, w x y z, shape (4,).
        angular_velocity: shape (3,) [rad/s].
    """
    message = Imu()
    q, v = message.orientation, message.angular_velocity
    q.w, q.x, q.y, q.z = map(float, orientation)
    v.x, v.y, v.z = map(float, angular_velocity)
    message.linear_acceleration_covariance[0] = -1.0  # REP 145: not measured
    return message
