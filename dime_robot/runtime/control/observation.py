"""The only place where a state becomes an observation and an action becomes a command.

`ObservationEncoder` selects, orders and stacks raw SI values (their scale and clip are the score
network's first operation); `ActionDecoder` turns [-1, 1] into SI commands. Simulator and robot
both use exactly these.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dime_robot.runtime.contract.policy_spec import (
    SIGNAL_TERMS,
    Float32Array,
    FloatArray,
    ObservationTerm,
    PolicySpec,
)
from dime_robot.runtime.control.state import CommandKind, JointCommand, RobotState
from dime_robot.runtime.io.errors import InputError


class _Block(NamedTuple):
    """A term, and what of it is needed in every step."""

    term: ObservationTerm
    place: slice  # of the observation
    width: int  # numbers in one reading
    stacks: bool  # whether it has earlier readings too
    rows: npt.NDArray[np.intp]  # of its joints or feet in the contract's order
    default: FloatArray  # positions of its joints at action 0 [rad or m]


class ObservationEncoder:
    """Turn a RobotState into the raw observation vector. Call `reset` when an episode begins.

    Raises:
        InputError: the spec has a flat term, which only its own environment can compute.
    """

    def __init__(self, spec: PolicySpec) -> None:
        index = {joint.name: i for i, joint in enumerate(spec.joints)}
        for term in spec.observation:
            if term.kind == "flat":
                raise InputError(
                    f"policy {spec.name}: observation term {term.name} is a flat vector of a"
                    " simulated environment; a robot's state cannot fill it"
                )
        feet = {foot: i for i, foot in enumerate(spec.feet)}
        default = np.array([joint.default_position for joint in spec.joints], dtype=float)
        self._blocks: list[_Block] = []
        start = 0
        for term in spec.observation:
            place, start = slice(start, start + term.size), start + term.size
            joints = np.array([index[name] for name in term.joints], dtype=np.intp)
            rows = np.array([feet[name] for name in term.feet], dtype=np.intp)
            rows = rows if term.feet else joints
            stacks = term.history > 1
            self._blocks.append(_Block(term, place, term.width, stacks, rows, default[joints]))
        self._stacked = np.zeros(spec.n_obs, dtype=np.float32)
        self._no_action = np.zeros(spec.n_act, dtype=np.float32)
        self._first = True

    def reset(self) -> None:
        """Forget the history."""
        self._first = True

    def encode(self, state: RobotState, last_action: FloatArray | None = None) -> Float32Array:
        """Compute the observation. Call it once per control step: each call extends the history.

        Args:
            state: the reading.
            last_action: the decoder's, shape (n_act,); None: zeros.

        Returns:
            Raw SI values, shape (n_obs,), float32.

        Raises:
            ValueError: the state has no reading of a sensor that a term needs.
        """
        stacked = self._stacked
        for block in self._blocks:
            reading = self._reading(block, state, last_action)
            if block.stacks:
                self._stack(block, reading)
            else:
                stacked[block.place] = reading
        self._first = False
        return stacked.copy()

    def _stack(self, block: _Block, reading: FloatArray) -> None:
        """Add a reading to those before it."""
        values, width = self._stacked[block.place], block.width
        older, newest = values[:-width], values[-width:]
        if not self._first:
            older[:] = values[width:].copy()
        elif block.term.history_fill == "first":
            older.reshape(-1, width)[:] = reading
        else:
            older[:] = 0.0
        newest[:] = reading

    def _reading(
        self, block: _Block, state: RobotState, last_action: FloatArray | None
    ) -> FloatArray:
        term, rows = block.term, block.rows
        match term.kind:  # the kinds that most contracts have are first
            case "joint_velocity":
                return state.joint_velocity[rows]
            case "joint_position_relative":
                relative: FloatArray = state.joint_position[rows] - block.default
                return relative
            case "last_action":
                return self._no_action if last_action is None else last_action
            case "angular_velocity":
                vector = state.angular_velocity
            case "projected_gravity":
                given = state.orientation
                vector = None if given is None else projected_gravity(given)
            case "command_velocity":
                vector = state.command_velocity
            case "joint_position":
                return state.joint_position[rows]
            case "joint_position_cos":
                return np.cos(state.joint_position[rows])
            case "joint_position_sin":
                return np.sin(state.joint_position[rows])
            case "joint_effort":
                efforts = state.joint_effort
                vector = None if efforts is None else efforts[rows]
            case "foot_contact":
                contacts = state.foot_contact
                vector = None if contacts is None else contacts[rows]
            case "command" | "sensor":
                vector = (state.signals or {}).get(term.signal_name)
                if vector is not None and vector.shape != (term.width,):
                    raise ValueError(
                        f"observation term {term.name}: expected {term.signal_name} of shape"
                        f" {(term.width,)}, got {vector.shape}"
                    )
            case _:  # __init__ refuses a flat term
                vector = None
        if vector is None:
            what = f"{term.kind} {term.signal_name}" if term.kind in SIGNAL_TERMS else term.kind
            raise ValueError(f"observation term {term.name}: the state has no {what}")
        return vector


def projected_gravity(orientation: FloatArray) -> FloatArray:
    """Return the unit vector of gravity in the base's frame: the third row of -R, shape (3,).

    Args:
        orientation: turns base into world coordinates, w x y z, of any length above 0, shape (4,).
    """
    # with Python's numbers, which take a third of the time of NumPy's
    w, x, y, z = (orientation / math.sqrt(orientation.dot(orientation))).tolist()
    return np.array([2 * (w * y - x * z), -2 * (w * x + y * z), 2 * (x * x + y * y) - 1])


def tilt_of(orientation: FloatArray) -> float:
    """Return the angle between the base's vertical axis and the world's [degrees].

    Args:
        orientation: base to world, w x y z, shape (4,).
    """
    upright = float(np.clip(-projected_gravity(orientation)[2], -1.0, 1.0))
    return math.degrees(math.acos(upright))


def _stops(spec: PolicySpec) -> tuple[FloatArray, FloatArray]:
    """Return the contract's position limits of the commanded joints, shape (n_act,) [rad or m]."""
    joints = [spec.joint(name) for name in spec.action_joints]
    low, high = np.array([joint.position_limits or (-np.inf, np.inf) for joint in joints]).T
    return low, high


class ActionDecoder:
    """Turn an action in [-1, 1] into an SI command. Call `reset` when an episode begins.

    Raises:
        InputError: the spec has a flat action, which names no joint.
    """

    def __init__(self, spec: PolicySpec) -> None:
        if spec.action.kind == "flat":
            raise InputError(
                f"policy {spec.name}: its action names no joints; it cannot command a robot"
            )
        self._kind: CommandKind = spec.action.kind
        self._joints = spec.action_joints
        # Shape (n_act,), [N m, N, rad, m, m/s or rad/s]
        self.scale = np.array([spec.action.scale[name] for name in self._joints], dtype=float)
        self._offset = np.zeros(len(self._joints))
        if self._kind == "position":
            self._offset[:] = [spec.joint(name).default_position for name in self._joints]
        self._within_limits = spec.action.within_limits
        if self._within_limits:
            self._low, self._high = _stops(spec)
        self._reference = spec.action.reference
        if self._reference != "default":
            self._require_measured_joints(spec)
        self._low_pass = spec.action.low_pass
        # the previous action, after the low-pass, for `last_action` terms. Shape (n_act,)
        self.last_action: FloatArray = np.zeros(len(self._joints))

    def _require_measured_joints(self, spec: PolicySpec) -> None:
        """Find what a target relative to the measured or the commanded position depends on."""
        order = [joint.name for joint in spec.joints]
        joints = [spec.joint(name) for name in self._joints]
        self._rows = np.array([order.index(name) for name in self._joints], dtype=np.intp)
        self._low, self._high = _stops(spec)
        # distance of a target at which the stiffness alone demands the largest effort [rad or m]
        self._reach = np.array(
            [(joint.effort_limit or np.inf) / (joint.stiffness or 1.0) for joint in joints]
        )

    def reset(self) -> None:
        """Forget the last action."""
        self.last_action = np.zeros(len(self._joints))

    def action_of(self, command: FloatArray, state: RobotState) -> FloatArray:
        """Return the action that would have given a command, as far as one can; shape (n_act,).

        Args:
            command: in the unit of the robot's interface, shape (n_act,).
            state: the newest reading, for positions relative to the measured or commanded ones.
        """
        zero = self._offset if self._reference == "default" else state.joint_position[self._rows]
        action: FloatArray = np.minimum(np.maximum((command - zero) / self.scale, -1.0), 1.0)
        return action

    def decode(
        self, action: FloatArray, state: RobotState | None = None, sent: FloatArray | None = None
    ) -> JointCommand:
        """Apply low-pass, scale and reference.

        If an action is not finite the whole command is NaN, which the safety filter refuses, and
        the last action stays unchanged.

        Args:
            action: in [-1, 1], shape (n_act,).
            state: the reading that the action answers; needed by positions relative to the measured
                or the commanded ones.
            sent: the command that was really sent in the step before, shape (n_act,) [rad or m];
                None: none was, so that a commanded reference begins at the measured position.

        Raises:
            ValueError: the contract's reference needs a reading, and none was given.
        """
        if not np.isfinite(action).all():
            return JointCommand(self._joints, np.full(len(self._joints), np.nan), self._kind)
        bounded = np.minimum(np.maximum(action, -1.0), 1.0)  # takes a third of the time of np.clip
        if self._low_pass < 1.0:
            bounded = self._low_pass * bounded + (1.0 - self._low_pass) * self.last_action
        self.last_action = bounded
        change = self.scale * bounded
        if self._reference == "default":
            target = self._offset + change
            if self._within_limits:
                target = np.minimum(np.maximum(target, self._low), self._high)
            return JointCommand(self._joints, target, self._kind)
        if state is None:
            raise ValueError(f"a {self._reference} reference needs a reading of the joints")
        return JointCommand(self._joints, self._relative(change, state, sent), self._kind)

    def _relative(
        self, change: FloatArray, state: RobotState, sent: FloatArray | None
    ) -> FloatArray:
        """Return targets relative to the measured or the commanded positions [rad or m]."""
        measured: FloatArray = state.joint_position[self._rows]
        if self._reference == "measured" or sent is None:
            return measured + change
        # the contract's own limits: in training nothing else keeps the sum of changes from growing
        # beyond a stop, or from where the largest effort is reached
        target = np.minimum(np.maximum(sent + change, self._low), self._high)
        reached: FloatArray = np.minimum(
            np.maximum(target, measured - self._reach), measured + self._reach
        )
        return reached
