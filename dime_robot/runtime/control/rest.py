"""Rest: the safe command of each interface, and when a shutdown has ended.

The safe command is sent while a fault lasts, after a stop, and during shutdown:

    effort    -damping * velocity within the effort limit. Without a trusted velocity: 0 where the
              robot may go limp, else each joint's `holding_effort`, for `rest_timeout` at most and
              then nothing, so that the robot's own time-out acts
    position  towards the safe position at `safe_speed` of each joint's velocity limit, never
              further from the newest trusted position than the joint's reach
    velocity  of joints: towards 0 at each joint's acceleration limit, sooner before a stop
    twist     towards 0 at the configured acceleration

Pure: the time is passed in.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.command_limits import CommandLimits
from dime_robot.runtime.control.state import RobotState

LOST_FOR = 0.2  # [s] without a trusted velocity, after which a shutdown ends at effort 0
SETTLED_FOR = 0.5  # [s] for which a robot that may not go limp, or a velocity 0, has to be slow
SLIGHT_EFFORT = 0.02  # share of the effort limit; smaller damping efforts carry no load
ARRIVED = 0.3  # distance from its safe position that a joint may keep under load [rad or m]


class RestReached(NamedTuple):
    """How a shutdown ended."""

    at_rest: bool
    text: str  # the condition that was reached, as a phrase


class Rest:
    """Computes the safe command at each step.

    Args:
        limits: of the robot's commands.
        robot: the machine.
    """

    def __init__(self, limits: CommandLimits, robot: RobotConfig) -> None:
        self._limits, self._safety = limits, robot.safety
        self._own_timeout = robot.command.timeout
        self._limp = robot.safety.may_go_limp is not False
        count = len(limits.names)
        self._damping, self._holding = np.zeros(count), np.zeros(count)
        self._target, self._speed = np.zeros(count), limits.slew
        if limits.kind != "twist":
            joints = [robot.joint(name) for name in limits.names]
            self._damping = np.array([joint.damping or 0.0 for joint in joints])
            self._holding = np.array([joint.holding_effort or 0.0 for joint in joints])
        if limits.kind == "position":
            self._target = np.array([joint.safe_position or 0.0 for joint in joints])
            self._speed = limits.slew * robot.safety.safe_speed
        self.max_duration = robot.safety.rest_timeout  # of a shutdown [s]
        if limits.kind == "twist":  # a base needs time to slow down
            self.max_duration += float(limits.high.max()) / robot.command.acceleration
        elif limits.kind == "velocity":
            self.max_duration += max(joint.velocity_limit / joint.acceleration for joint in joints)
        self._lost_since: float | None = None  # since when no velocity is trusted [s]
        self._began: float | None = None  # start of the shutdown [s]
        self._slow_since: float | None = None  # since when all joints are slow [s]

    def restart(self) -> None:
        """Reset, since a policy commands the robot again."""
        self._lost_since = self._began = self._slow_since = None

    def step(
        self, now: float, elapsed: float, previous: FloatArray, state: RobotState | None,
        newest: RobotState | None,
    ) -> FloatArray | None:  # fmt: skip
        """Return the safe command; None: send nothing, the robot's own time-out has to act.

        Args:
            now: steady time [s].
            elapsed: since `previous` was sent [s].
            previous: the command before, shape (n_act,).
            state: the reading of this step; None where it is not trusted.
            newest: the newest trusted reading, however old.
        """
        limits = self._limits
        if limits.kind == "effort":
            return self._effort(now, state)
        step = self._speed * elapsed
        value: FloatArray = previous + np.minimum(np.maximum(self._target - previous, -step), step)
        if limits.kind == "position" and newest is not None:  # do not force a blocked joint
            value = limits.slewed(limits.within_reach(value, newest), previous, elapsed)
        elif limits.kind == "velocity" and newest is not None:
            value = limits.before_stops(value, newest)
        return value

    def _effort(self, now: float, state: RobotState | None) -> FloatArray | None:
        limits = self._limits
        if state is not None:
            self._lost_since = None
            effort: FloatArray = -self._damping * limits.velocity(state)
            return limits.within_effort(effort)
        if self._lost_since is None:
            self._lost_since = now
        if self._limp:
            return np.zeros(len(limits.names))
        if now - self._lost_since > self._safety.rest_timeout:
            return None
        return self._holding.copy()

    # ---- shutdown

    def shut_down(
        self, now: float, elapsed: float, previous: FloatArray, state: RobotState | None,
        newest: RobotState | None,
    ) -> tuple[FloatArray | None, RestReached | None]:  # fmt: skip
        """Return the safe command, and how the shutdown ended; arguments as in `step`.

        Args:
            now: steady time [s].
            elapsed: since `previous` was sent [s].
            previous: the command before, shape (n_act,).
            state: the reading of this step, None unless it can be trusted.
            newest: the newest reading that could be trusted, however old.
        """
        if self._began is None:
            self._began, self._slow_since = now, None
            if state is not None:
                self._lost_since = None
            elif self._lost_since is None:  # else the load was held without a velocity already
                self._lost_since = now
        timed_out = now - self._began >= self.max_duration
        value = self.step(now, elapsed, previous, state, newest)
        match self._limits.kind:
            case "effort":
                return self._shut_down_effort(now, timed_out, value, state)
            case "position":
                return value, self._position_reached(timed_out, value, state)
            case "velocity":
                return value, self._velocity_reached(now, timed_out, value, state)
        if value is not None and not value.any():
            return value, RestReached(True, "standing: a velocity of 0 is commanded")
        if timed_out:
            return value, RestReached(False, "still slowing down")
        return value, None

    def _shut_down_effort(
        self, now: float, timed_out: bool, value: FloatArray | None, state: RobotState | None
    ) -> tuple[FloatArray | None, RestReached | None]:
        limits, safety, zero = self._limits, self._safety, np.zeros(len(self._limits.names))
        own = f"the robot's own time-out of {self._own_timeout:g} s has to act"
        if state is None:
            self._slow_since = None
            if not self._limp:
                if not timed_out and value is not None:
                    return value, None
                text = f"without a velocity to damp, held by holding_effort until now; {own}"
                return value, RestReached(False, text)
            assert self._began is not None
            lost = self._lost_since is not None and (
                now - max(self._lost_since, self._began) >= LOST_FOR
            )
            if lost or timed_out:
                return zero, RestReached(False, "no velocity can be trusted, effort 0")
            return zero, None
        speed, slow_for = self._slow_for(now, state)
        assert value is not None  # `_effort` returns one for every state
        if self._limp and not self._damping.any():
            return zero, RestReached(False, "a damping of 0 lets the joints coast, effort 0")
        if self._limp:
            if slow_for >= safety.rest_fade:
                return zero, RestReached(True, f"all joints slower than {safety.rest_speed:g}")
            if timed_out:
                return zero, RestReached(False, f"{self._fastest(speed)}, effort 0")
            if slow_for >= 0:
                value = value * (1 - slow_for / safety.rest_fade)
            return value, None
        light = bool((np.abs(value) <= SLIGHT_EFFORT * limits.effort).all())
        if slow_for >= SETTLED_FOR and light:
            return value, RestReached(True, f"all joints slower than {safety.rest_speed:g}")
        if timed_out:
            return value, RestReached(False, f"{self._fastest(speed)}, damped until now; {own}")
        return value, None

    def _slow_for(self, now: float, state: RobotState) -> tuple[FloatArray, float]:
        """Return the speeds of the joints, and for how long all have been slow; -1: they are not.

        Args:
            now: steady time [s].
            state: a trusted reading.
        """
        speed = np.abs(self._limits.velocity(state))
        if (speed > self._safety.rest_speed).any():
            self._slow_since = None
        elif self._slow_since is None:
            self._slow_since = now
        return speed, -1.0 if self._slow_since is None else now - self._slow_since

    def _velocity_reached(
        self, now: float, timed_out: bool, value: FloatArray | None, state: RobotState | None
    ) -> RestReached | None:
        assert value is not None
        sent = "still slowing down" if value.any() else "a velocity of 0 is commanded"
        if state is None:
            self._slow_since = None
            if value.any() and not timed_out:
                return None
            return RestReached(False, f"{sent}, no reading says whether the joints stand")
        speed, slow_for = self._slow_for(now, state)
        if not value.any() and slow_for >= SETTLED_FOR:
            slow = f"all joints slower than {self._safety.rest_speed:g}"
            return RestReached(True, f"{sent}, {slow}")
        return RestReached(False, f"{self._fastest(speed)}, {sent}") if timed_out else None

    def _position_reached(
        self, timed_out: bool, value: FloatArray | None, state: RobotState | None
    ) -> RestReached | None:
        assert value is not None
        commanded = bool(np.array_equal(value, self._target))
        if state is None:
            if not commanded and not timed_out:
                return None
            sent = "was commanded" if commanded else "was not reached by the command"
            return RestReached(
                False, f"the safe position {sent}, no reading says where the joints are"
            )
        error = np.abs(self._limits.position(state) - self._target)
        worst = int(error.argmax())
        text = f"{self._limits.names[worst]} is {error[worst]:.3g} from its safe position"
        if commanded and error[worst] <= ARRIVED:
            return RestReached(True, f"at the safe position: {text}")
        return RestReached(False, text) if timed_out else None

    def _fastest(self, speed: FloatArray) -> str:
        worst = int(speed.argmax())
        return f"{self._limits.names[worst]} still moves at {speed[worst]:.3g}"
