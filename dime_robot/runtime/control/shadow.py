"""CommandComparison: what a policy would command against what another controller commands.

Steps and the other's commands are given as they come. A step is compared with the last command
that comes after it and before the next step: the other's response to the same reading. Steps in
which the policy did not act (held, damped, stopped) are not compared.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.faults import SafetyLevel
from dime_robot.runtime.control.safety_filter import Decision


class Difference(NamedTuple):
    """The magnitude of the difference of each joint over some steps [SI units]."""

    steps: int
    mean: FloatArray  # shape (n_act,)
    max: FloatArray  # shape (n_act,)


class CommandComparison:
    """See the module's docstring.

    Args:
        n_act: numbers in a command.
    """

    def __init__(self, n_act: int) -> None:
        self._sum, self._max = np.zeros(n_act), np.zeros(n_act)
        self._steps = 0
        self._ours: FloatArray | None = None  # of the newest step, if the policy acted
        self._theirs: FloatArray | None = None  # the last command since then

    def step(self, decision: Decision) -> None:
        """Take a step; the step before it is complete."""
        if self._ours is not None and self._theirs is not None:
            difference = np.abs(self._ours - self._theirs)
            self._sum += difference
            np.maximum(self._max, difference, out=self._max)
            self._steps += 1
        acted = decision.level <= SafetyLevel.CLAMP
        self._ours, self._theirs = decision.command.value if acted else None, None

    def other(self, value: FloatArray) -> None:
        """Take a command of the other controller.

        Args:
            value: in the policy's order, shape (n_act,).
        """
        self._theirs = value

    def take(self) -> Difference:
        """Return the difference since the last call."""
        found = Difference(self._steps, self._sum / max(1, self._steps), self._max.copy())
        self._steps = 0
        self._sum[:] = self._max[:] = 0.0
        return found


def units_of(spec: PolicySpec) -> tuple[str, ...]:
    """Return the unit of each number of a policy's command."""
    if spec.action.kind == "twist":
        return tuple("rad/s" if axis == "angular_z" else "m/s" for axis in spec.action_joints)
    revolute, prismatic = {
        "effort": ("N m", "N"), "position": ("rad", "m"), "velocity": ("rad/s", "m/s"),
    }.get(spec.action.kind, ("1", "1"))  # fmt: skip
    kinds = [spec.joint(name).type for name in spec.action_joints]
    return tuple(revolute if kind == "revolute" else prismatic for kind in kinds)
