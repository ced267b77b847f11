"""ContactReading: which of the policy's feet are in contact, from the forces that a robot sends."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig


class ContactReading:
    """Convert forces in the robot's order to contacts in the contract's.

    Args:
        spec: has the feet whose contacts a policy observes.
        robot: the machine, found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        given = robot.contact
        names = () if given is None else given.feet
        self._size = len(names)
        self._threshold = 0.0 if given is None else given.threshold
        self._rows = np.array([names.index(foot) for foot in spec.feet if given], dtype=np.intp)

    def contacts(self, forces: FloatArray) -> FloatArray:
        """Return 1 or 0 of each of the contract's feet; NaN: its force is not measured.

        Args:
            forces: as in the message, shape (n,) [N]; all NaN if their number is another.
        """
        if forces.shape != (self._size,):
            return np.full(len(self._rows), np.nan)
        chosen = forces[self._rows]
        return np.where(np.isfinite(chosen), (chosen >= self._threshold).astype(float), np.nan)
