"""The time-out of the simulated robot: the response of its motors when commands stop.

`robot.command.timeout` is mandatory because only the robot can act once policy_node, its computer
or the network has failed. The parameter `on_timeout` of sim_node selects the response:

damp  effort: -damping * velocity of each joint within its effort limit, 0 where `damping` is not
      given; position: no stiffness, the drive's damping only; velocity of joints: the servo brakes
      to 0; twist: 0
zero  effort and twist: 0; position and velocity of joints: no torque at all
hold  the last command stays, as with forward_command_controller alone, which is dangerous
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.state import CommandKind, JointCommand

OnTimeout = Literal["damp", "hold", "zero"]
ON_TIMEOUT: tuple[OnTimeout, ...] = ("damp", "hold", "zero")


class CommandTimeout:
    """Detects that commands have stopped. All times are of one clock, any [s]."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.restart()

    def restart(self) -> None:
        """Wait for the first command: nothing can time out before it."""
        self._last = math.inf
        self.expired = False

    def command(self, now: float) -> bool:
        """Take the arrival of a command.

        Args:
            now: steady time [s].

        Returns:
            Whether it ends a time-out.
        """
        ended, self._last, self.expired = self.expired, now, False
        return ended

    def expires(self, now: float) -> bool:
        """Whether the time-out has begun since the last call.

        Args:
            now: steady time [s].
        """
        if self.expired or now - self._last <= self.timeout:
            return False
        self.expired = True
        return True


class TimeoutResponse:
    """The command of the motors after the time-out, computed in every simulation step.

    Args:
        spec: the contract, with the commanded joints and the gains of a position drive.
        robot: damping and effort limits of an effort interface.
        on_timeout: see the module's docstring.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig, on_timeout: OnTimeout) -> None:
        self._joints, self._on_timeout = spec.action_joints, on_timeout
        self._kind: CommandKind | None = None
        if spec.action.kind != "flat":
            self._kind = spec.action.kind
        if self._kind == "twist":
            return
        order = [joint.name for joint in spec.joints]
        self._order = np.array([order.index(name) for name in self._joints], dtype=np.intp)
        machine = [robot.joint(name) for name in self._joints]
        self._damping = np.array([joint.damping or 0.0 for joint in machine])
        self._limit = np.array([joint.effort_limit or np.inf for joint in machine])
        gains = [spec.joint(name) for name in self._joints]
        stiffness = np.array([joint.stiffness or math.inf for joint in gains])
        damping = np.array([joint.damping or 0.0 for joint in gains])
        # distance of a target at which the stiffness term cancels the damping term
        self._lead = damping / stiffness

    @property
    def word(self) -> str:
        """Name of the response, for the log."""
        return {"damp": "damping", "zero": "no effort", "hold": "the last command stays"}[
            self._on_timeout
        ]

    def command(self, position: FloatArray, velocity: FloatArray) -> JointCommand | None:
        """Return the command that has the effect of the response; None: the last command stays.

        Args:
            position: true, in the contract's order, shape (n_joints,) [rad or m].
            velocity: true, in the contract's order, shape (n_joints,) [rad/s or m/s].
        """
        if self._on_timeout == "hold" or self._kind is None:
            return None
        if self._kind == "twist":
            return JointCommand(self._joints, np.zeros(len(self._joints)), self._kind)
        position, velocity = position[self._order], velocity[self._order]
        zero = self._on_timeout == "zero"
        if self._kind == "position":
            value = position + self._lead * velocity if zero else position.copy()
        elif self._kind == "velocity" and zero:
            value = velocity.copy()  # no velocity error, so the servo gives no effort
        elif zero or self._kind == "velocity":
            value = np.zeros(len(self._joints))
        else:
            value = np.clip(-self._damping * velocity, -self._limit, self._limit)
        return JointCommand(self._joints, value, self._kind)
