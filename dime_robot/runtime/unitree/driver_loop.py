"""DriverLoop: decides 500 times a second what is sent to the motors of a Go2. Pure: no ROS.

    nothing -> damping -> following -> holding -> damping

Nothing is sent until the robot's own controller has released the motors and the operator has asked
for them. Then they are damped:
kp 0, kd `damping`. A command that begins near the measured pose is followed, with gains that rise
within `gain_ramp`. Where commands stay out or a reading is not to be trusted, the last target is
held for `hold`, then the motors are damped, also where the fault comes and goes; a tilt damps at
once. This judges readings and commands
by itself and does not rely on the node that sends the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray
from dime_robot.runtime.unitree.low_level import MOTORS, POSITION_STOP
from dime_robot.runtime.unitree.motors import Motors
from dime_robot.runtime.unitree.state_watch import DriverFault, Problem, StateWatch

N = len(MOTORS)
CALVES = slice(2, N, 3)
START_ERROR = 0.3  # [rad] between a first command and the measured position
SPEED_MARGIN = 1.25  # times the largest speed, for the step from one command to the next
MAX_GAP = 0.1  # [s] without commands that a step may make up for
EFFORT_MARGIN = 2.0  # times the largest torque, for what a target may demand of its stiffness
MAX_STALL = 0.1  # [s] between two steps of this loop
MAX_RISE = 0.01  # [s] between two steps that gains rise for
REFUSING = 1.5  # [s] without taking commands after an end, so that their sender notices it
WRITER_SILENCE = 0.5  # [s] after which another writer of LowCmd counts as gone
HOLD_LEAK = 0.1  # share of the time in which commands are followed that held time is forgotten by
END_DAMPING, END_STILL, MAX_END_DAMPING = 1.0, 0.3, 4.0  # [s] of damping before the process ends
LYING_STILL = 0.5  # [s] without motion
LYING_ERROR = 0.35  # [rad] between the calves and those of the pose in which the robot lies


class Sending(Enum):
    """What is sent now."""

    NOTHING = "nothing"
    DAMPING = "damping"
    FOLLOWING = "following"
    HOLDING = "holding"


@dataclass(frozen=True)
class DriverSettings:
    """Times and limits of the driver."""

    timeout: float
    """Longest time between two commands [s]."""
    tilt_limit: float
    """Of the base [rad]."""
    hold: float = 0.2
    """How long the last target is held before the motors are damped [s]."""
    damping: float = 3.0
    """kd of the motors while they are damped [N m s/rad]."""
    gain_ramp: float = 0.5
    """In which the gains rise from damping to the contract's [s]."""
    max_state_age: float = 0.05
    """Longest time between two usable LowState messages [s]."""
    max_temperature: float = 80.0
    """Of a motor [degrees Celsius]."""
    serve_time: float = 5.0
    """How long commands are followed at most after a request to end [s]."""


@dataclass
class MotorTargets:
    """What the motors are sent; arrays of shape (12,)."""

    position: FloatArray = field(default_factory=lambda: np.full(N, POSITION_STOP))
    """[rad]; `POSITION_STOP` where there is no target."""
    stiffness: FloatArray = field(default_factory=lambda: np.zeros(N))
    """[N m/rad]"""
    damping: FloatArray = field(default_factory=lambda: np.zeros(N))
    """[N m s/rad]"""


class DriverLoop:
    """See the module's docstring. All times are of one steady clock [s].

    Args:
        motors: gains and limits.
        settings: times and limits.
    """

    def __init__(self, motors: Motors, settings: DriverSettings) -> None:
        self.motors, self.settings = motors, settings
        self.watch = StateWatch(
            settings.max_state_age, settings.tilt_limit, settings.max_temperature
        )
        self.sending = Sending.NOTHING
        self.problem: Problem | None = None  # why it does not follow commands, or did not last
        self.latched = False  # until `reset`
        self.released = False  # the robot's own controller has given the motors free
        self.permitted = False  # the operator has asked for the motors
        self.events: list[tuple[str, str]] = []  # (warning or info, sentence) for the log
        self.commands = self.refused_commands = self.clipped_commands = 0
        self.refusal = ""  # why the newest refused command was refused
        self._order: dict[tuple[str, ...], Any] = {}  # names of a command -> their indices
        self._target = np.full(N, np.nan)  # newest command
        self._command_at = -np.inf
        self._sent = np.full(N, np.nan)  # target that is sent
        self._gain = 0.0  # share of the contract's gains
        self._gain_at: float | None = None  # when it rose last
        self._held = 0.0  # for how long targets have been held lately [s]
        self._cause: Problem | None = None  # the worst of what they were held for
        self._budget = 0.0  # time that the next commands may use up by their motion [s]
        self._standstill = 0.0  # for how long this computer was suspended [s]
        self._refusing_until = -np.inf
        self._stepped_at: float | None = None
        self._other_writer_at = -np.inf
        self._stop_at: float | None = None
        self._damped_since = -np.inf
        self._failure: Problem | None = None  # of the program itself, until `reset`
        self._targets = MotorTargets()

    # ---- what comes in

    def take_state(self, record: Any, now: float) -> None:
        """Take a LowState.

        Args:
            record: of LOW_STATE.
            now: steady time [s].
        """
        self.watch.take(record, now)

    def take_command(self, names: Sequence[str], positions: Sequence[float], now: float) -> str:
        """Take positions of all joints; one that cannot be used does not count as a command.

        Args:
            names: hardware names, in any order.
            positions: [rad].
            now: steady time [s].

        Returns:
            Why it was refused, as a sentence; empty: it was not.
        """
        problem = self._command_problem(names, positions, now)
        if problem:
            if problem != self.refusal:
                self.events.append(("warning", f"command refused: {problem}"))
            self.refused_commands += 1
            self.refusal = problem
            return problem
        self._command_at = now
        self.commands += 1
        self.refusal = ""
        return ""

    def _command_problem(self, names: Sequence[str], positions: Sequence[float], now: float) -> str:
        if not self.accepts_commands(now):
            return f"commands are not taken now: {self.describe(now)}"
        key = tuple(names)
        order = self._order.get(key)
        if order is None:
            if sorted(key) != sorted(MOTORS):
                listed = ", ".join(key[: N + 1]) or "none"
                return f"expected each of the joints {', '.join(MOTORS)} once, got {listed}"
            order = np.array([key.index(name) for name in MOTORS])
            self._order = {key: order}
        values = np.asarray(positions, dtype=float)
        if values.shape != (N,) or not np.isfinite(values).all():
            return f"expected {N} finite positions, got {list(positions)[:N]}"
        target = np.clip(values[order], self.motors.low, self.motors.high)
        if self.sending is Sending.DAMPING:
            off = np.abs(target - self.watch.position)
            if not off.max() <= START_ERROR:
                worst = int(np.nanargmax(off)) if np.isfinite(off).any() else 0
                return (
                    f"expected a first position within {START_ERROR:g} rad of the measured one,"
                    f" got {target[worst]:.2f} for {MOTORS[worst]} at"
                    f" {self.watch.position[worst]:.2f}"
                )
        else:
            # by elapsed time and not by message: a burst of commands must not add up
            gap = now - self._command_at
            self._budget = min(self._budget + gap, MAX_GAP)
            speed = SPEED_MARGIN * self.motors.speed
            step = speed * min(self._budget, max(gap, self.motors.period))
            bounded = np.clip(target, self._target - step, self._target + step)
            self.clipped_commands += int((bounded != target).any())
            self._budget -= float((np.abs(bounded - self._target) / speed).max())
            target = bounded
        self._target = target
        return ""

    def take_other_writer(self, writer: str, now: float) -> None:
        """Take a LowCmd of another writer.

        Args:
            writer: its name, for the log.
            now: steady time [s].
        """
        self._other_writer_at = now
        if not self.permitted:
            return  # the robot's own controller may have the motors still
        if self.problem is None or self.problem.fault is not DriverFault.SECOND_WRITER:
            text = f"{writer} sends LowCmd too: this driver sends nothing more"
            self._end(Problem(DriverFault.SECOND_WRITER, text), now)
        self.sending, self.latched, self.permitted = Sending.NOTHING, True, False

    def take_mode(self, mode: str | None, now: float) -> None:
        """Take what the robot's motion switcher says.

        Args:
            mode: name of the controller that has the motors; empty: none has, they are free; None:
                it is not known.
            now: steady time [s].
        """
        if mode and self.released and self.sending is not Sending.NOTHING:
            text = f"the robot's own controller {mode} was started: this driver sends nothing more"
            self._end(Problem(DriverFault.MODE_TAKEN, text), now)
            self.sending, self.latched, self.permitted = Sending.NOTHING, True, False
        if mode is not None:
            self.released = mode == ""

    def permit(self, now: float) -> str:
        """Take the operator's request that this driver has the motors.

        Args:
            now: steady time [s].

        Returns:
            Why it cannot, as a sentence; empty: it can, and sends from now on.
        """
        if not self.released:
            return "expected that the robot's own controller has released the motors: it has not"
        if now - self._other_writer_at < WRITER_SILENCE:
            return "expected no other writer of LowCmd, but one sends: stop it first"
        self.watch.forget_motors()  # what the robot's own controller did with them
        problem = self.watch.problem(now) if self.latched else None
        self.permitted, self.latched = True, problem is not None  # damping is sent in any case
        self.problem, self._failure = problem, None
        return ""

    def give_back(self) -> str:
        """Take the operator's request to send nothing more.

        Returns:
            Why it is refused, as a sentence; empty: nothing is sent from now on.
        """
        if self.sending in (Sending.FOLLOWING, Sending.HOLDING):
            return (
                "expected that no commands are followed: sit down and deactivate the policy first"
            )
        self.permitted, self.sending = False, Sending.NOTHING
        return ""

    def fail(self, text: str, now: float) -> None:
        """Take an error of the program itself.

        Args:
            text: what happened.
            now: steady time [s].
        """
        self._failure = self._failure or Problem(DriverFault.INTERNAL, text)
        self._fault(self._failure, 0.0, now)

    def take_suspension(self, seconds: float) -> None:
        """Take for how long this computer was suspended, while the steady clock stood still.

        Args:
            seconds: of it [s].
        """
        self._standstill = max(self._standstill, seconds)

    def request_stop(self, now: float) -> None:
        """Take a request to end: the first lets commands end, the second damps at once.

        Args:
            now: steady time [s].
        """
        if self._stop_at is None:
            self._stop_at = now
            self.events.append(("info", "ending: commands are followed until they end"))
        elif self.sending in (Sending.FOLLOWING, Sending.HOLDING):
            self.events.append(("warning", "second request to end: damping"))
            self._damp(now)

    def reset(self, now: float) -> str:
        """Take the operator's word that the robot may be commanded again.

        Args:
            now: steady time [s].

        Returns:
            Why it may not, as a sentence; empty: it may.
        """
        if now - self._other_writer_at < WRITER_SILENCE:
            return "expected no other writer of LowCmd, but one sends: stop it first"
        if self.sending in (Sending.FOLLOWING, Sending.HOLDING):
            return "expected that no commands are followed: there is nothing to reset"
        problem = self.watch.problem(now) or self.watch.frozen_problem(now)
        if problem is not None and self.permitted:
            return f"{problem.fault.value}: {problem.text}"
        self.latched, self.problem, self._failure = False, None, None
        return ""

    # ---- what goes out

    def accepts_commands(self, now: float) -> bool:
        """Whether a command would be taken.

        Args:
            now: steady time [s].
        """
        following = self.sending in (Sending.FOLLOWING, Sending.HOLDING)
        if following:
            return not self.latched
        if self.latched or self._stop_at is not None or self.sending is Sending.NOTHING:
            return False
        if self.watch.problem(now) is not None:
            self._refusing_until = now + REFUSING
        return now >= self._refusing_until

    def finished(self, now: float) -> bool:
        """Whether the process may end after a request to.

        Args:
            now: steady time [s].
        """
        if self._stop_at is None:
            return False
        if self.sending is not Sending.DAMPING:
            return self.sending is Sending.NOTHING
        damped, still = now - self._damped_since, self.watch.still(now) >= END_STILL
        return damped >= MAX_END_DAMPING or (damped >= END_DAMPING and still)

    def lies(self, now: float) -> bool:
        """Whether the robot has lain still with folded legs for a while.

        Args:
            now: steady time [s].
        """
        if self.watch.problem(now) is not None or self.watch.still(now) < LYING_STILL:
            return False
        off = self.motors.in_policy_terms(self.watch.position) - self.motors.lying
        return bool((np.abs(off[CALVES]) <= LYING_ERROR).all())

    def step(self, now: float) -> MotorTargets | None:
        """Return what is sent now, valid until the next call; None: nothing.

        Args:
            now: steady time [s].
        """
        elapsed = 0.0 if self._stepped_at is None else now - self._stepped_at
        elapsed, self._standstill = max(elapsed, self._standstill), 0.0
        self._stepped_at = now
        if not self.released or not self.permitted:
            self.sending = Sending.NOTHING
            return None
        if self.sending is Sending.NOTHING:
            self._enter_damping(now)
        if self.sending is not Sending.DAMPING:
            self._judge(elapsed, now)
        elif self._fresh(now) and not self.latched and self.watch.problem(now) is None:
            self._begin(now)
        return self._make(now)

    def _fresh(self, now: float) -> bool:
        return now - self._command_at <= self.settings.timeout and not np.isnan(self._target[0])

    def _begin(self, now: float) -> None:
        """Begin to follow commands."""
        self.sending, self.problem = Sending.FOLLOWING, None
        self._gain, self._gain_at = 0.0, None
        self._sent = self._target
        self._held, self._cause, self._budget = 0.0, None, self.motors.period
        self.watch.begin_commands(now)
        self.events.append(("info", "commands are followed"))

    def _judge(self, elapsed: float, now: float) -> None:
        """Hold, damp or go on, while commands are followed or the last one is held."""
        watch = self.watch
        problem = self._failure or watch.problem(now) or watch.problem_while_commanded(now)
        if elapsed > MAX_STALL:
            problem = Problem(DriverFault.STALLED, f"this process stood still for {elapsed:.2f} s")
        elif problem is None and self._ended_by_request(now):
            problem = Problem(DriverFault.NO_COMMAND, "the time to serve commands is over")
        elif problem is None and not self._fresh(now):
            age = now - self._command_at
            problem = Problem(DriverFault.NO_COMMAND, f"no command for {age:.2f} s")
        if problem is not None:
            self._fault(problem, elapsed, now)
            return
        if self.sending is Sending.HOLDING:
            self.sending, self.problem = Sending.FOLLOWING, None
            self.events.append(("info", "commands are followed again"))
        # what comes and goes adds up
        self._held = max(0.0, self._held - HOLD_LEAK * elapsed)
        if self._held == 0.0:
            self._cause = None

    def _ended_by_request(self, now: float) -> bool:
        return self._stop_at is not None and now - self._stop_at > self.settings.serve_time

    def _fault(self, problem: Problem, elapsed: float, now: float) -> None:
        """Respond to a problem.

        Args:
            problem: now.
            elapsed: since the step before [s].
            now: steady time [s].
        """
        if self.sending in (Sending.NOTHING, Sending.DAMPING):
            self.problem, self.latched = problem, True
            return
        if self.sending is Sending.FOLLOWING:
            self.sending, self._gain_at = Sending.HOLDING, None
            self._end(problem, now)
        elif self.problem is None or self.problem.fault is not problem.fault:
            self._end(problem, now)
        # commands often cease because of what else is wrong: that has to be mended first
        if self._cause is None or self._cause.fault is DriverFault.NO_COMMAND:
            self._cause = problem
        self._held += elapsed
        at_once = problem.fault in (DriverFault.TILTED, DriverFault.STALLED)
        if at_once or self._held >= self.settings.hold:
            self.problem = problem if at_once else self._cause
            self.latched = self.problem.fault is not DriverFault.NO_COMMAND
            self._damp(now)

    def _end(self, problem: Problem, now: float) -> None:
        """Note why commands are not followed any more."""
        self.problem = problem
        self.events.append(("warning", f"{problem.fault.value}: {problem.text}"))

    def _damp(self, now: float) -> None:
        self._refusing_until = now + REFUSING
        self._enter_damping(now)
        self.events.append(("warning", f"damping: kp 0, kd {self.settings.damping:g}"))

    def _enter_damping(self, now: float) -> None:
        self.sending, self._damped_since = Sending.DAMPING, now
        self._target = np.full(N, np.nan)
        self._command_at = -np.inf

    def _make(self, now: float) -> MotorTargets:
        targets, settings, motors = self._targets, self.settings, self.motors
        if self.sending is Sending.DAMPING:
            targets.position[:] = POSITION_STOP
            targets.stiffness[:] = 0.0
            targets.damping[:] = settings.damping
            return targets
        if self.sending is Sending.FOLLOWING:
            # nothing is added at the first step, nor for the time in which a target was held
            rise = min(now - self._gain_at, MAX_RISE) if self._gain_at is not None else 0.0
            self._gain = min(1.0, self._gain + rise / settings.gain_ramp)
            self._gain_at = now
            self._sent = self._target
            self.watch.take_target(self._target)
        gain = self._gain
        reach = EFFORT_MARGIN * motors.effort / motors.stiffness
        near = self.watch.position
        targets.position[:] = np.clip(self._sent, near - reach, near + reach)
        targets.stiffness[:] = gain * motors.stiffness
        targets.damping[:] = settings.damping + gain * (motors.damping - settings.damping)
        if not np.isfinite(targets.position).all():  # a last line: nothing before it lets this by
            self._fault(Problem(DriverFault.INTERNAL, "a target is not finite"), 0.0, now)
            self._damp(now)
            return self._make(now)
        return targets

    def describe(self, now: float) -> str:
        """Return its state as a sentence for the operator.

        Args:
            now: steady time [s].
        """
        problem, sending = self.problem, self.sending.value
        if problem is None and self.sending is Sending.DAMPING:
            problem = self.watch.problem(now)
        if problem is not None:
            latched = "; ~/reset when it is mended" if self.latched and self.permitted else ""
            return f"{sending}: {problem.fault.value}: {problem.text}{latched}"
        if self.sending is Sending.NOTHING:
            return "nothing is sent: ~/release_mode takes the motors"
        return sending
