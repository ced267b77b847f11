"""Faults a simulated robot can show, named in sim_node's parameter `fault`.

delay:S        states come S seconds late, stamps true
drop:P         each state is lost with probability P
freeze_stamp   the stamp stands still, the values go on
nan:JOINT      the joint's position reads NaN, as ros2_control shows a missing interface
jump:JOINT:D   the joint's position reads D more (an encoder that slipped) [rad or m]
spin:JOINT:V   the joint's velocity reads V more [rad/s or m/s]
permute        the joints come in another order, with their names
missing:JOINT  the joint is not in the message
extra          a joint nobody knows is in the message
no_imu         the imu falls silent
tilt:DEGREES   the imu reads a base rolled by so much
die            the process ends at once, like a kernel panic: no goodbye
fast:K         states come K times as often as they should
"""

from __future__ import annotations

import math
import os
from copy import deepcopy

import numpy as np
from sensor_msgs.msg import Imu, JointState

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.spec import FloatArray

_NUMBERS = {"delay": 1, "drop": 1, "freeze_stamp": 0, "nan": 0, "jump": 1, "spin": 1, "permute": 0}
_NUMBERS |= {"missing": 0, "extra": 0, "no_imu": 0, "tilt": 1, "die": 0, "fast": 1}
_WITH_JOINT = ("nan", "jump", "spin", "missing")


class Fault:
    """One fault, parsed.

    Args:
        text: see the module's docstring; empty: none.
        joints: names on the wire.

    Raises:
        InputError: there is no such fault.
    """

    def __init__(self, text: str, joints: list[str]) -> None:
        self.kind, *rest = text.split(":") if text else [""]
        self.joint = ""
        self.number = 0.0
        if not text:
            return
        try:
            numbers = _NUMBERS[self.kind]
            if self.kind in _WITH_JOINT:
                self.joint = joints[joints.index(rest.pop(0))]
            (self.number,) = [float(n) for n in rest] if numbers else (0.0,)
            if len(rest) != numbers or not math.isfinite(self.number):
                raise ValueError
        except (KeyError, ValueError, IndexError):
            raise InputError(
                f"parameter fault: expected one of {', '.join(_NUMBERS)} with its arguments"
                f" (joints: {', '.join(joints)}), got {text!r}",
                code="parameter",
            ) from None
        self._random = np.random.default_rng(0)
        self._stamp = None

    @property
    def delay(self) -> float:
        """How late states are sent [s]."""
        return self.number if self.kind == "delay" else 0.0

    @property
    def speed_up(self) -> float:
        """How often states are sent, relative to their rate."""
        return self.number if self.kind == "fast" else 1.0

    def joint_state(self, message: JointState) -> JointState | None:
        """The message as the broken robot sends it; None: not at all."""
        match self.kind:
            case "die":
                os._exit(9)
            case "drop":
                return None if self._random.uniform() < self.number else message
            case "freeze_stamp":
                self._stamp = self._stamp or deepcopy(message.header.stamp)
                message.header.stamp = self._stamp
            case "nan":
                message.position[message.name.index(self.joint)] = math.nan
            case "jump":
                message.position[message.name.index(self.joint)] += self.number
            case "spin":
                message.velocity[message.name.index(self.joint)] += self.number
            case "permute":
                for field in (message.name, message.position, message.velocity):
                    field.reverse()
            case "missing":
                index = message.name.index(self.joint)
                for field in (message.name, message.position, message.velocity):
                    del field[index]
            case "extra":
                message.name.insert(0, "gripper")
                message.position.insert(0, 0.5)
                message.velocity.insert(0, 0.0)
        return message

    def imu(self, message: Imu) -> Imu | None:
        """The message as the broken robot sends it; None: not at all."""
        if self.kind == "no_imu":
            return None
        if self.kind == "tilt":
            half = math.radians(self.number) / 2
            q = message.orientation
            q.w, q.x, q.y, q.z = math.cos(half), math.sin(half), 0.0, 0.0
        return message


def imu_message(orientation: FloatArray, angular_velocity: FloatArray) -> Imu:
    """An Imu without acceleration."""
    message = Imu()
    q, v = message.orientation, message.angular_velocity
    q.w, q.x, q.y, q.z = map(float, orientation)
    v.x, v.y, v.z = map(float, angular_velocity)
    message.linear_acceleration_covariance[0] = -1.0  # REP 145: not measured
    return message
