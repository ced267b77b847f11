"""The only place where a joint is reordered on its way to the policy or an action gets its unit.

`ObservationEncoder` selects, orders and stacks raw SI values (their scale and clip are the score
network's first operation); `ActionDecoder` turns [-1, 1] into SI commands. Simulator and robot
both use exactly these.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dime_robot.runtime.errors import InputError
from dime_robot.runtime.spec import FloatArray, PolicySpec
from dime_robot.runtime.state import JointCommand, RobotState


class ObservationEncoder:
    """RobotState -> raw observation vector.

    Raises:
        InputError: the spec has a flat term, which only its own environment can fill.
    """

    def __init__(self, spec: PolicySpec) -> None:
        index = {joint.name: i for i, joint in enumerate(spec.joints)}
        for term in spec.observation:
            if term.kind == "flat":
                raise InputError(
                    f"policy {spec.name}: observation term {term.name} is a flat vector of a"
                    " simulated environment; a robot's state cannot fill it"
                )
        self._n_obs = spec.n_obs
        self._terms = [
            (term.kind, np.array([index[name] for name in term.joints], dtype=np.intp))
            for term in spec.observation
        ]

    def encode(self, state: RobotState) -> npt.NDArray[np.float32]:
        """Stack the terms. Shape (n_obs,), raw SI units, float32."""
        observation = np.empty(self._n_obs, dtype=np.float32)
        start = 0
        for kind, joints in self._terms:
            stop = start + len(joints)
            if kind == "joint_velocity":
                observation[start:stop] = state.joint_velocity[joints]
            elif kind == "joint_position":
                observation[start:stop] = state.joint_position[joints]
            elif kind == "joint_position_cos":
                observation[start:stop] = np.cos(state.joint_position[joints])
            else:
                observation[start:stop] = np.sin(state.joint_position[joints])
            start = stop
        return observation


class ActionDecoder:
    """Policy action in [-1, 1] -> JointCommand in SI units.

    Raises:
        InputError: the spec has a flat action, which names no joint.
    """

    def __init__(self, spec: PolicySpec) -> None:
        if spec.action.kind == "flat":
            raise InputError(
                f"policy {spec.name}: its action names no joints; it cannot command a robot"
            )
        self._joints = spec.action_joints
        self._scale = np.array([spec.action.scale[name] for name in self._joints])

    def decode(self, action: FloatArray) -> JointCommand:
        """Apply the action scale. `action` has shape (n_act,) in [-1, 1]."""
        return JointCommand(self._joints, self._scale * np.clip(action, -1.0, 1.0))
