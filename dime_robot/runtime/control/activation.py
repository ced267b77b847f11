"""Whether a robot is in a state from which a policy may start: near where training began."""

from __future__ import annotations

import numpy as np

from dime_robot.runtime.contract.policy_spec import Joint, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.plausibility import JointDistance
from dime_robot.runtime.control.start_conditions import speed_problem, tilt_problem
from dime_robot.runtime.control.state import RobotState

# where the robot's file gives no value: the pose of a position interface, and the speed of
# positions and velocities of joints
REVOLUTE_ERROR = 0.3  # [rad]
PRISMATIC_ERROR = 0.1  # share of the range
SPEED = 1.0  # [rad/s or m/s]


class StartPose:
    """Check a pose: near the default pose, or near the safe positions, where a stop ends.

    A robot with phases stands up before its policy starts, which the safe positions do not permit.

    Args:
        spec: the policy's contract.
        robot: the machine, found compatible.
    """

    def __init__(self, spec: PolicySpec, robot: RobotConfig) -> None:
        limits, kind = robot.activation, spec.action.kind
        position = kind == "position"
        self._names = [joint.name for joint in spec.joints]
        checked: list[Joint] = []  # whose positions matter
        if position or (kind in ("effort", "velocity") and limits.position_error is not None):
            checked = [spec.joint(name) for name in spec.action_joints]
        self._rows = [self._names.index(joint.name) for joint in checked]
        self._distance = JointDistance(checked, robot)
        self._default = np.array([joint.default_position for joint in checked])
        safe = [robot.joint(joint.name).safe_position for joint in checked]
        if robot.phases is not None:
            safe = [None] * len(checked)
        self._safe = np.array([np.nan if position is None else position for position in safe])
        self._error = np.zeros(len(checked))
        for i, joint in enumerate(checked):
            stops = robot.joint(joint.name).position_limits
            if limits.position_error is not None:
                self._error[i] = limits.position_error
            elif joint.type == "revolute":
                self._error[i] = REVOLUTE_ERROR
            else:
                span = np.inf if stops is None else stops[1] - stops[0]
                self._error[i] = PRISMATIC_ERROR * span
        # a velocity begins at 0, which would brake a joint that moves at once
        slow = kind in ("position", "velocity")
        self._speed = SPEED if limits.speed is None and slow else limits.speed
        tilt, limit = limits.tilt, robot.safety.tilt_limit
        self._tilt = tilt if tilt is not None or limit is None else limit / 2

    def problem(self, state: RobotState, moving: bool = False) -> str:
        """Return why a policy may not start from a reading, as a sentence; empty: it may.

        Args:
            state: the reading.
            moving: the robot may move, since the policy commanded it just before.
        """
        speed = None if moving else self._speed
        problem = tilt_problem(state, self._tilt, "activation.tilt") or speed_problem(
            state, self._names, speed, "activation.speed"
        )
        if problem:
            return problem
        position = state.joint_position[self._rows]
        off = self._distance(position, self._default)
        if (off <= self._error).all() or (
            self._distance(position, self._safe) <= self._error
        ).all():
            return ""
        worst = int((off - self._error).argmax())
        text = (
            f"{self._names[self._rows[worst]]} is {off[worst]:.3g} from its default position:"
            f" expected at most {self._error[worst]:.3g} (activation.position_error)"
        )
        if not np.isfinite(self._safe).all():
            return text
        return f"{text}, or all joints at their safe positions: move the robot there first"
