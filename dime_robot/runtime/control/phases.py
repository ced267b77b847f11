"""Phases: stands a robot up, lets its policy run, and sits it down.

    passive -> stand_up -> stand -> policy -> sit_down -> passive

Pure: the time is an argument. What the operator wants is a `Goal`; `PhaseMachine` finds the way to
it, one phase after the other. In `policy` the policy commands the robot, in every other phase this
module does; limits and responses to faults are those of the safety filter in all of them. A robot
without a section `phases` is always in `policy`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import numpy as np

from dime_robot.runtime.contract.phases import PEAK, Motion, pose_of
from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RobotConfig
from dime_robot.runtime.control.command_limits import CommandLimits
from dime_robot.runtime.control.start_conditions import speed_problem, tilt_problem
from dime_robot.runtime.control.state import JointCommand, RobotState

POLICY_WAIT = 1.0  # [s] for which a robot that stands waits until its policy may start


class Phase(str, Enum):
    """What commands the robot."""

    PASSIVE = "passive"  # nothing moves it: its joints are damped, or held where they are
    STAND_UP = "stand_up"
    STAND = "stand"  # the last pose of `stand_up`
    POLICY = "policy"
    SIT_DOWN = "sit_down"


def commander_of(phase: Phase, policy: str) -> str:
    """Return what commands the robot, as on `~/phase`: "policy walk", "stand_up".

    Args:
        phase: the current one.
        policy: name of the selected policy; empty: there is only one.
    """
    return f"{phase.value} {policy}".rstrip()


def is_policy(commander: str) -> bool:
    """Whether a policy commands the robot.

    Args:
        commander: as `commander_of` returns it.
    """
    return commander.partition(" ")[0] == Phase.POLICY.value


class Goal(str, Enum):
    """What an operator can request."""

    PASSIVE = "passive"
    STAND = "stand"
    POLICY = "policy"


class _Path:
    """One motion: along poses, from where the joints are.

    Args:
        config: of the motion.
        spec: the policy's contract.
        robot: the machine, found compatible.
        limits: of its commands.
    """

    def __init__(
        self, config: Motion, spec: PolicySpec, robot: RobotConfig, limits: CommandLimits
    ) -> None:
        self.config, self._limits = config, limits
        joints = [spec.joint(name) for name in limits.names]
        machine = {joint.name: joint for joint in robot.joints}
        self._poses = [np.array(pose_of(point, joints, machine)) for point in config.path]
        self._speed = np.array(
            [config.speed * robot.joint(name).velocity_limit for name in limits.names]
        )
        self._stiffness = np.array([config.stiffness.get(name, 0.0) for name in limits.names])
        self._damping = np.array([config.damping.get(name, 0.0) for name in limits.names])
        self.begin(self._poses[-1], restart=True)

    @property
    def end(self) -> FloatArray:
        """Last pose, shape (n_act,) [rad or m]."""
        return self._poses[-1]

    def begin(self, start: FloatArray, restart: bool, direct: bool = False) -> None:
        """Begin at a pose.

        A robot that is near the last pose already goes there directly.

        Args:
            start: shape (n_act,) [rad or m].
            restart: whether the time until it fails is counted anew.
            direct: go to the last pose directly from anywhere.
        """
        poses, durations = self._poses, [point.duration for point in self.config.path]
        if direct or np.abs(start - self.end).max() <= self.config.tolerance:
            poses, durations = poses[-1:], durations[-1:]
        self._corners = [start]
        for pose in poses:
            self._corners.append(np.where(np.isnan(pose), self._corners[-1], pose))
        # a smooth step is fastest in its middle
        self._durations = [
            max(duration, PEAK * float((np.abs(after - before) / self._speed).max()))
            for before, after, duration in zip(
                self._corners, self._corners[1:], durations, strict=False
            )
        ]
        self._points = self.config.path[len(self.config.path) - len(poses) :]
        self._leg = 0  # from this corner to the next
        self._time = 0.0  # since its beginning [s]
        self._near_for = 0.0  # for how long the joints have been near the last pose [s]
        if restart:
            self._spent = 0.0  # in this phase [s]

    def advance(self, elapsed: float, state: RobotState) -> None:
        """Let time pass.

        Args:
            elapsed: since the step before [s].
            state: the newest reading.
        """
        self._time += elapsed
        self._spent += elapsed
        arrived = self._time >= self._durations[self._leg]
        tolerance = self._points[self._leg].tolerance or self.config.tolerance
        if not arrived or not (self.errors(state) <= tolerance).all():
            self._near_for = 0.0
        elif self._leg < len(self._durations) - 1:
            self._leg, self._time = self._leg + 1, 0.0
        else:
            self._near_for += elapsed

    def errors(self, state: RobotState) -> FloatArray:
        """Return the distance of each joint from the next pose, shape (n_act,) [rad or m]."""
        return np.abs(self._limits.position(state) - self._corners[self._leg + 1])

    @property
    def number(self) -> int:
        """Number of the pose to which it moves, from 0, in the path of the configuration."""
        return len(self._poses) - len(self._durations) + self._leg

    @property
    def is_at_last_pose(self) -> bool:
        """Whether it moves to the last pose, or is there."""
        return self._leg == len(self._durations) - 1

    @property
    def has_ended(self) -> bool:
        """Whether the joints have been near the last pose for long enough."""
        return self._near_for > 0 and self._near_for >= self.config.settle

    @property
    def has_failed(self) -> bool:
        """Whether its time is over."""
        return self._spent > self.config.timeout

    def target(self) -> tuple[FloatArray, FloatArray]:
        """Return position and velocity of the path now, shape (n_act,) each [SI]."""
        duration = self._durations[self._leg]
        share = min(self._time / duration, 1.0)
        start = self._corners[self._leg]
        span = self._corners[self._leg + 1] - start
        # a smooth step: 3 s^2 - 2 s^3, at rest at both ends
        position = start + span * (share**2 * (3 - 2 * share))
        return position, span * (6 * share * (1 - share) / duration)

    def command(self, state: RobotState, at_end: bool = False) -> FloatArray:
        """Return the command that follows the path, in the unit of the robot's interface.

        Args:
            state: the newest reading.
            at_end: stay at the last pose.
        """
        limits, config = self._limits, self.config
        position, velocity = self.target()
        if at_end:
            position, velocity = self.end, np.zeros(len(self.end))
        measured = limits.position(state)
        strength = self._points[self._leg].effort or config.effort
        if limits.kind == "position":
            reach = strength * limits.reach
            near, far = measured - reach, measured + reach
            target: FloatArray = np.minimum(np.maximum(position, near), far)
            return target
        if limits.kind == "velocity":
            value, largest = velocity + self._stiffness * (position - measured), self._speed
        else:
            value = self._stiffness * (position - measured)
            value += self._damping * (velocity - limits.velocity(state))
            largest = strength * limits.effort
        bounded: FloatArray = np.minimum(np.maximum(value, -largest), largest)
        return bounded


class PhaseMachine:
    """Decides what commands the robot, and commands it in every phase but `policy`.

    Args:
        spec: the policy's contract.
        robot: the machine, found compatible.
        limits: of its commands.
        policy_problem: why the policy may not start from a reading, as a sentence; empty: it may.
            Given the reading, and whether the robot may move.
    """

    def __init__(
        self,
        spec: PolicySpec,
        robot: RobotConfig,
        limits: CommandLimits,
        policy_problem: Callable[[RobotState, bool], str],
    ) -> None:
        self._limits, self._policy_problem = limits, policy_problem
        self._names = [joint.name for joint in spec.joints]
        self.exists = robot.phases is not None
        self.failure = ""  # of the newest phase that failed, as a sentence; empty: none has
        self.stops = False  # whether that failure calls for a stop
        self.phase, self.goal = Phase.POLICY, Goal.POLICY
        if robot.phases is None:
            return
        self._damping = np.array([robot.joint(name).damping or 0.0 for name in limits.names])
        self._start = Goal(robot.phases.start)
        self._start_speed = robot.phases.stand_up.start_speed
        self._failures = {
            Phase.STAND_UP: robot.phases.stand_up.on_failure,
            Phase.SIT_DOWN: robot.phases.sit_down.on_failure,
        }
        self._paths = {
            Phase.STAND_UP: _Path(robot.phases.stand_up, spec, robot, limits),
            Phase.SIT_DOWN: _Path(robot.phases.sit_down, spec, robot, limits),
        }
        self._waited = 0.0  # while standing for the policy, or until it stands still [s]
        self._halt = robot.phases.halt if spec.needs("command_velocity") else 0.0
        self.restart()

    @property
    def runs_policy(self) -> bool:
        """Whether the policy commands the robot."""
        return self.phase == Phase.POLICY

    @property
    def halts(self) -> bool:
        """Whether the policy has to stand still, since another phase is to follow."""
        return self.exists and self.phase == Phase.POLICY and self.goal != Goal.POLICY

    def restart(self, waits: bool = False) -> None:
        """Begin with the first phase: the robot is commanded anew.

        Args:
            waits: for a request, whatever an activation leads to: a stop was released, which must
                not move the robot.
        """
        self.failure, self.stops = "", False
        if self.exists:
            self.phase, self.goal = Phase.PASSIVE, Goal.PASSIVE if waits else self._start

    def request(self, goal: Goal, state: RobotState) -> str:
        """Ask for a goal.

        Args:
            goal: where the phases lead from now on.
            state: the newest usable reading.

        Returns:
            Why it is refused, as a sentence; empty: it is accepted.
        """
        if not self.exists:
            return "the robot's file has no section phases"
        problem = ""
        if goal != Goal.PASSIVE and self.phase == Phase.PASSIVE:
            problem = self.start_problem(state)
        elif goal != Goal.PASSIVE and self.phase == Phase.SIT_DOWN:
            problem = "it sits down: request it once the robot lies"
        elif goal == Goal.POLICY and self.phase == Phase.STAND:
            problem = self._policy_problem(state, False)
        if not problem:
            self.goal, self._waited = goal, 0.0
        return problem

    def start_problem(self, state: RobotState) -> str:
        """Return why the robot may not stand up from a reading, as a sentence; empty: it may."""
        if not self.exists:
            return ""
        return self._tilt_problem(Phase.STAND_UP, state) or speed_problem(
            state, self._names, self._start_speed, "phases.stand_up.start_speed"
        )

    def _tilt_problem(self, phase: Phase, state: RobotState) -> str:
        """Return why the base is tilted too far for a motion, as a sentence; empty: it is not."""
        return tilt_problem(state, self._paths[phase].config.tilt, f"phases.{phase.value}.tilt")

    def advance(self, elapsed: float, state: RobotState, sent: FloatArray) -> None:
        """Let time pass, and enter the next phase where it is due.

        Args:
            elapsed: since the step before [s].
            state: a usable reading.
            sent: the command before, shape (n_act,).
        """
        if not self.exists:
            return
        match self.phase:
            case Phase.PASSIVE:
                if self.goal != Goal.PASSIVE:
                    if problem := self.start_problem(state):
                        self._fail(f"did not stand up: {problem}", "passive")
                    else:
                        self._move(Phase.STAND_UP, self._limits.position(state))
            case Phase.STAND_UP:
                self._along(elapsed, state, sent, Phase.STAND)
                if self.phase == Phase.STAND_UP and self.goal == Goal.PASSIVE:
                    self._sit_down(state, sent)
            case Phase.STAND:
                self._stand(elapsed, state, sent)
            case Phase.POLICY:
                self._leave_policy(elapsed, state, sent)
            case Phase.SIT_DOWN:
                self._along(elapsed, state, sent, Phase.PASSIVE)

    def resume(self, state: RobotState, sent: FloatArray) -> None:
        """Continue after damping has moved the robot.

        A policy continues where the robot still is in a pose from which it may start, and a path
        of standing up that has not come to its last pose begins anew. Every other robot goes on to
        where the damping led: it sits down, and waits for its operator.

        Args:
            state: a usable reading.
            sent: the command before, shape (n_act,).
        """
        if not self.exists or self.phase == Phase.PASSIVE:
            return
        lies = self.phase == Phase.STAND_UP and not self._paths[self.phase].is_at_last_pose
        if self.phase == Phase.SIT_DOWN or (lies and not self._tilt_problem(self.phase, state)):
            self._paths[self.phase].begin(self._last_pose(state, sent), restart=False)
            return
        text = f"{self.phase.value} does not go on after damping"
        if self.phase == Phase.POLICY:
            problem = self._policy_problem(state, True)
            if not problem:
                return
            text = f"{text}: {problem}"
        self.failure, self.goal = f"{text}; it sits down", Goal.PASSIVE
        self._sit_down(state, sent)

    def command(self, state: RobotState, sent: FloatArray, elapsed: float) -> JointCommand:
        """Return the command of a phase other than `policy`, within the robot's limits.

        Args:
            state: a usable reading.
            sent: the command before, shape (n_act,).
            elapsed: since it was sent [s].
        """
        limits = self._limits
        if self.phase == Phase.PASSIVE:
            value = self._passive(state)
        elif self.phase == Phase.STAND:
            value = self._paths[Phase.STAND_UP].command(state, at_end=True)
        else:
            value = self._paths[self.phase].command(state)
        # a path begins where the joints are, which may be in the soft margin
        value, _ = limits.clamp(value, sent, state, elapsed)
        return JointCommand(limits.names, value, limits.kind)

    def _passive(self, state: RobotState) -> FloatArray:
        """Return the command that moves nothing."""
        limits = self._limits
        if limits.kind == "position":
            return limits.position(state)
        if limits.kind == "velocity":
            return np.zeros(len(limits.names))
        return -self._damping * limits.velocity(state)

    def _leave_policy(self, elapsed: float, state: RobotState, sent: FloatArray) -> None:
        """Let the policy stand still first where another phase is to follow."""
        self._waited = self._waited + elapsed if self.halts else 0.0
        if not self.halts or self._waited <= self._halt:
            return
        if self.goal == Goal.STAND:  # it stands: no way through the poses of one that lies
            self._move(Phase.STAND_UP, self._last_pose(state, sent), direct=True)
        else:
            self._sit_down(state, sent)

    def _stand(self, elapsed: float, state: RobotState, sent: FloatArray) -> None:
        if self.goal == Goal.PASSIVE:
            self._sit_down(state, sent)
        elif self.goal == Goal.POLICY:
            problem = self._policy_problem(state, False)
            self._waited += elapsed
            if not problem:
                self.phase, self._waited = Phase.POLICY, 0.0
            elif self._waited > POLICY_WAIT:
                self.goal, self._waited = Goal.STAND, 0.0
                self.failure = f"stands, and does not run the policy: {problem}"

    def _along(self, elapsed: float, state: RobotState, sent: FloatArray, following: Phase) -> None:
        """Follow the path of this phase until it ends or fails."""
        path = self._paths[self.phase]
        path.advance(elapsed, state)
        if path.has_ended:
            self.phase, self._waited = following, 0.0
        elif path.has_failed:
            errors = path.errors(state)
            worst = int(errors.argmax())
            text = (
                f"{self.phase.value} failed: {self._limits.names[worst]} is {errors[worst]:.3g}"
                f" from pose {path.number} of its path after {path.config.timeout:g} s"
            )
            response = self._failures[self.phase]
            self._fail(text, response)
            if response == "sit_down":
                self._sit_down(state, sent)
            else:
                self.phase = Phase.PASSIVE

    def _fail(self, text: str, response: str) -> None:
        self.failure, self.goal, self.stops = text, Goal.PASSIVE, response == "stop"

    def _sit_down(self, state: RobotState, sent: FloatArray) -> None:
        """Begin to sit down, unless the base is tilted too far for that."""
        if problem := self._tilt_problem(Phase.SIT_DOWN, state):
            self._fail(f"did not sit down: {problem}", self._failures[Phase.SIT_DOWN])
            self.phase = Phase.PASSIVE
        else:
            self._move(Phase.SIT_DOWN, self._last_pose(state, sent))

    def _move(self, phase: Phase, start: FloatArray, direct: bool = False) -> None:
        self.phase, self._waited = phase, 0.0
        self._paths[phase].begin(start, restart=True, direct=direct)

    def _last_pose(self, state: RobotState, sent: FloatArray) -> FloatArray:
        """Return where a motion begins that takes a load over: the last target, else the joints."""
        return sent if self._limits.kind == "position" else self._limits.position(state)
