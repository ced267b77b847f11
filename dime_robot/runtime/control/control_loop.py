"""ControlLoop: readings in, commands out, and everything in between that can go wrong.

One pure object: the clocks are handed in, messages become calls, decisions are returned. It
watches all inputs (`watchdog`, `plausibility`), decides when to step, answers faults (`safety`),
stops and re-arms, and leads the robot to rest on every way out (`rest`). It distrusts its inputs,
its clock and itself. Nothing in here knows ROS, threads or files.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import IMU_TERMS, FloatArray
from dime_robot.runtime.contract.robot_config import RATE_TOLERANCE
from dime_robot.runtime.control.activation import StartPose
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import FIRST_RESPONSE, UNUSABLE, Fault, SafetyLevel
from dime_robot.runtime.control.plausibility import ReadingCheck
from dime_robot.runtime.control.rest import RestReached
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.state import RobotState
from dime_robot.runtime.control.velocity_command import VelocityCommand
from dime_robot.runtime.control.watchdog import Arrival, StreamWatchdog

START_LIMIT = 1.0  # [s] after activation within which a usable reading has to come
LATE = 2.0  # control periods without us, after which the command ramps again
RATE_GAP = 0.05  # [s] without us, in which enough readings are missed to look like a slow robot
SHORTEST_STEP = 0.5  # control periods between two steps that readings begin
HEARTBEATS = 4.0  # looks within `command.timeout`: so often has `poll` to be called
ROUNDING = 0.01  # control periods by which a simulation's next stamp may seem to come too soon
CONFLICT = 2.0  # control periods over which messages of another commander are seen
CONFLICT_WITHIN = 5.0  # [s]: messages of a rival that lie further apart are single ones
HELD_ERROR = 0.1  # [rad or m] of a joint that the contract expects to be held


class Mode(Enum):
    """What the loop does."""

    INACTIVE = "inactive"  # watches, commands nothing
    STARTING = "starting"  # activated, waits for a usable reading
    ACTIVE = "active"  # commands the robot, or has stopped it
    RESTING = "resting"  # on the way out: leads the robot to rest


class Reading(NamedTuple):
    """One message of the joints, in policy order."""

    stamp: float  # on the robot's clock [s]
    position: FloatArray  # shape (n_joints,) [rad or m]
    velocity: FloatArray  # shape (n_joints,) [rad/s or m/s]
    reordered: bool = False  # the message has its joints in another order than the one before
    held: FloatArray | None = None  # of the contract's held joints [rad or m]; NaN: not there


class GraphView(NamedTuple):
    """Who else is there, as the caller sees it."""

    listeners: tuple[str, ...] = ()  # nodes that take the commands
    rivals: tuple[str, ...] = ()  # other nodes that could publish commands
    rival_messages: int = 0  # commands of theirs since the last view
    extra_publishers: tuple[str, ...] = ()  # a phrase for each input with more than one publisher
    state_shared: str = ""  # two publishers send the same joints, or the imu: a sentence
    state_conflict: str = ""  # and why their readings contradict each other
    velocity_conflict: str = ""  # two publishers of the velocity, where that is refused
    type_mismatches: tuple[str, ...] = ()  # a sentence each


class ControlLoop:
    """See the module's docstring.

    Args:
        controller: policy, safety filter and recorder of one robot.
        by_reading: each reading begins a step; else a timer with absolute deadlines does.
        clock: steady time [s]; in simulation the simulation's.
        robot_clock: time on the clock of the stamps [s].
        simulated: the clock is a simulation's, which may pause: rates are not judged.
        publishes: False in a dry run, whose commands move nothing.
    """

    def __init__(
        self,
        controller: Controller,
        by_reading: bool,
        clock: Callable[[], float],
        robot_clock: Callable[[], float],
        simulated: bool = False,
        publishes: bool = True,
    ) -> None:
        self.controller, self.by_reading = controller, by_reading
        self._clock, self._robot_clock = clock, robot_clock
        self._simulated, self._publishes = simulated, publishes
        spec, robot = controller.policy.spec, controller.robot
        self._spec, self._robot, self._period = spec, robot, spec.period
        self.watchdog = StreamWatchdog(
            robot.state.max_age,
            robot.state.same_clock,
            None if simulated else robot.state.rate,
            lossy=not by_reading,
        )
        self._imu: StreamWatchdog | None = None
        if robot.imu is not None and (
            spec.needs(*IMU_TERMS)
            or robot.safety.tilt_limit is not None
            or robot.activation.tilt is not None
        ):
            self._imu = StreamWatchdog(robot.imu.max_age, robot.state.same_clock)
        self._velocity: VelocityCommand | None = None
        if robot.command_velocity is not None and spec.needs("command_velocity"):
            self._velocity = VelocityCommand(robot.command_velocity)
        self._check = ReadingCheck(spec, robot)
        self._start_pose = StartPose(spec, robot)
        self.mode = Mode.INACTIVE
        self.estopped = False
        self.rest_reached: RestReached | None = None  # how the last way out ended
        self.view = GraphView()
        self.clock_jumped = False  # while inactive; see `restart`
        self._alive_at = clock()  # when this object was last called [s]
        self._stepped_at = self._next_step = 0.0
        self.command_topic = robot.command.topic  # as users know it
        self.began = 0.0  # when the last step could first be made [s]
        self._details: dict[Fault, str] = {}  # what is known of each
        self._missed = 0
        self._rival_since: float | None = None
        self._rival_last = 0.0
        self.restart()

    def restart(self) -> None:
        """Forget all readings: what comes now is another life of the robot, or another clock."""
        self.state: RobotState | None = None  # the newest that could be believed
        self.watchdog.restart()
        if self._imu is not None:
            self._imu.restart()
        if self._velocity is not None:
            self._velocity.restart()
        self._check.restart()
        self._orientation: FloatArray | None = None
        self._angular_velocity: FloatArray | None = None
        self._held: FloatArray | None = None
        self._defect = self._rejected = self._imu_rejected = self._frozen = ""
        self._reordered = False
        self._late = 0.0  # how long this process did not run before now [s]
        self._pending: float | None = None  # when a reading that came too soon begins a step [s]
        self._tripped_at = -np.inf

    @property
    def latched(self) -> bool:
        """Is it active and stopped?"""
        return self.mode == Mode.ACTIVE and self.controller.safety.latched

    @property
    def needs_imu(self) -> bool:
        """Does anything need readings of an imu?"""
        return self._imu is not None

    @property
    def needs_velocity(self) -> bool:
        """Does the policy follow a velocity?"""
        return self._velocity is not None

    def take_missed(self) -> int:
        """Deadlines without a step since the last call."""
        missed, self._missed = self._missed, 0
        return missed

    # ---- inputs

    def joint_state(self, reading: Reading) -> Decision | None:
        """Take a reading; gives the command that it leads to, if it begins a step."""
        now = self._live()
        if not self._arrived(reading.stamp, now):
            return self._tripped(now)
        self._defect, self._held = "", reading.held
        self._reordered |= reading.reordered
        position, velocity = reading.position, reading.velocity
        self._rejected = self._check.jump(position, velocity, reading.stamp)
        if self._publishes:
            self._frozen = self._check.frozen(position, velocity, now)
        if not self._rejected or self._check.broken:  # then it is the fault that is shown
            self.state = RobotState(
                reading.stamp,
                position,
                velocity,
                self._orientation,
                self._angular_velocity,
                None if self._velocity is None else self._velocity.at(now),
            )
        return self._on_reading(now)

    def unusable(self, defect: str) -> Decision | None:
        """Take note of a message of the joints that cannot be read, and why (a phrase)."""
        now = self._live()
        self._defect = defect
        return self._on_reading(now)

    def imu(
        self, stamp: float, orientation: FloatArray, angular_velocity: FloatArray
    ) -> Decision | None:
        """Take a reading of the imu.

        Args:
            stamp: on the robot's clock [s].
            orientation: base to world, shape (4,), w x y z; NaN: not measured.
            angular_velocity: in the base's frame, shape (3,) [rad/s]; NaN: not measured.
        """
        assert self._imu is not None
        now = self._live()
        arrival = self._imu.arrive(stamp, now, self._robot_clock())
        if arrival != Arrival.NEW:
            return self._tripped(now)
        self._imu_rejected = self._check.turn(orientation, stamp)
        if self._imu_rejected:
            return self._tripped(now)
        self._orientation, self._angular_velocity = orientation, angular_velocity
        if self.state is not None:
            self.state = self.state._replace(
                orientation=orientation, angular_velocity=angular_velocity
            )
        return self._tripped(now)

    def velocity(self, velocity: FloatArray) -> None:
        """Take the velocity that the operator gives.

        Args:
            velocity: shape (3,) [m/s, m/s, rad/s].
        """
        assert self._velocity is not None
        if self.view.velocity_conflict:  # whose is it?
            return
        now = self._clock()
        self._velocity.receive(velocity, now)
        if self.state is not None:  # a simulation in lockstep sends no other before the first step
            self.state = self.state._replace(command_velocity=self._velocity.at(now))

    def graph(self, view: GraphView) -> Decision | None:
        """Take note of who else is there; gives a command where that ends something."""
        now = self._live()
        self.view = view
        if view.velocity_conflict and self._velocity is not None:
            self._velocity.restart()
        if not self._publishes or self.mode == Mode.INACTIVE:
            return None
        if view.rival_messages:
            if self._rival_since is None or now - self._rival_last > CONFLICT_WITHIN:
                self._rival_since = now - self._period
            self._rival_last = now
            if now - self._rival_since >= CONFLICT * self._period:
                return self._give_way(now, view.rivals)
        if not view.listeners:
            if self.mode == Mode.RESTING:
                self._end_rest(RestReached(False, "nobody listens to the commands any more"))
                return None
            return self.trip(Fault.LISTENER_LOST, "the node that takes the commands has gone")
        return self._tripped(now)

    # ---- operator

    def estop(self) -> Decision | None:
        """Stop now and stay stopped, in any mode."""
        self.estopped = True
        return self.trip(Fault.ESTOP)

    def reset(self) -> str:
        """Release the stop and go on from where the robot is; gives what stands against it."""
        was, self.estopped = self.estopped, False
        if not self.latched:
            return ""
        problem = self.activation_problem()
        if not problem and self.watchdog.received <= self._tripped_at:
            problem = "expected a reading that came after the stop"
        if problem:
            self.estopped = was
            return problem
        self._begin(self._clock())
        return ""

    def trip(self, reason: Fault, detail: str = "") -> Decision | None:
        """Stop now and stay stopped, where active."""
        if self.mode == Mode.STARTING:
            self._end_rest(RestReached(True, f"nothing was commanded: {reason.value}"))
        if self.mode != Mode.ACTIVE:
            return None
        safety = self.controller.safety
        news = reason not in safety.cause or not safety.latched
        now = self._clock()
        self._trip(reason, detail, now)
        return self._step(now) if news else None

    def activate(self) -> None:
        """Permit commands; `activation_problem` was asked before."""
        now = self._live()
        self.rest_reached, self._rival_since = None, None
        self.mode, self._next_step = Mode.STARTING, now + START_LIMIT
        self._start_if_usable(now)

    def leave(self) -> None:
        """Begin the way out: from now on the robot is led to rest."""
        if self.mode == Mode.STARTING:
            self._end_rest(RestReached(True, "nothing was commanded"))
        if self.mode == Mode.ACTIVE:
            self.mode, self._next_step = Mode.RESTING, self._clock()
            self._alive_at = self._next_step

    def give_up(self, why: str) -> None:
        """End a way out that cannot be gone, and why (a phrase)."""
        if self.mode == Mode.RESTING:
            self._end_rest(RestReached(False, why))

    def activation_problem(self) -> str:
        """What stands against commanding the robot now, as one sentence; empty: nothing."""
        topic, now = self._robot.state.topic, self._clock()
        if self.estopped:
            return "the emergency stop is set: call ~/reset_estop first"
        if self.view.state_shared:  # it explains much of what follows
            return self.view.state_shared
        if self._defect:
            return f"{topic}: {self._defect}"
        if self.state is None:
            stray = f": {self.watchdog.stray}" if self.watchdog.stray else ""
            return f"expected the robot's state on {topic}, got none yet{stray}"
        if not self._simulated:
            if self.watchdog.stray:
                return f"{topic}: {self.watchdog.stray}"
            if self.watchdog.rate is None:
                return f"expected readings of {topic} for half a second first"
            if self.watchdog.rate_is_unusable:
                return f"expected {topic} at {self.watchdog.describe_rate()}"
        safety = self.controller.safety
        found = [*self._problems(now), *safety.problems_of(self.state)]
        serious = [reason for reason in found if FIRST_RESPONSE[reason] >= SafetyLevel.HOLD]
        if self._check.settled:  # an operator takes readings for good that jumped before
            serious = [reason for reason in serious if reason != Fault.OBSERVATION_JUMP]
        if serious:
            return f"the robot's state is not usable: {self.explain(serious)}"
        if problem := self._start_pose.problem(self.state) or self._held_problem():
            return problem
        if self.view.velocity_conflict:
            return self.view.velocity_conflict
        if self._publishes and not self.view.listeners:
            why = self.view.type_mismatches[0] if self.view.type_mismatches else ""
            topic = self.command_topic
            return why or f"nobody listens on {topic}: is the robot's controller active?"
        if self._publishes and self.view.rivals:
            return self.rivals_problem(self.view.rivals)
        return ""

    def rivals_problem(self, rivals: tuple[str, ...]) -> str:
        """A sentence about others that could publish commands."""
        return (
            f"{len(rivals)} other publisher(s) on {self.command_topic}: stop {', '.join(rivals)}"
            " first, only one node may command a robot"
        )

    def explain(self, reasons: tuple[Fault, ...] | list[Fault]) -> str:
        """The reasons with what is known of each, for a log."""
        reading = "" if self.state is None else self.controller.safety.describe(self.state)
        texts = []
        for reason in dict.fromkeys(reasons):
            detail = self._details.get(reason, "")
            if reason in OF_THE_READING:
                detail = reading
            texts.append(f"{reason.value} ({detail})" if detail else reason.value)
        return ", ".join(texts)

    # ---- time

    def wait(self) -> float:
        """How long `poll` need not be called where no message comes [s]."""
        if self.mode == Mode.INACTIVE:
            return np.inf
        due = self._next_step if self._pending is None else min(self._next_step, self._pending)
        alive = self._robot.command.timeout / HEARTBEATS
        return min(due - self._clock(), alive)

    def poll(self) -> Decision | None:
        """Let time pass; gives a command where one is due."""
        now = self._live()
        if self.mode == Mode.INACTIVE:
            return None
        late = self.mode == Mode.STARTING and now >= self._next_step
        if not self._start_if_usable(now) and late:
            text = "nothing was commanded: no usable reading came after the activation"
            self._end_rest(RestReached(True, text))
            return None
        if self.mode == Mode.RESTING:
            due = self._next_step - ROUNDING * self._period
            return self._rest(now) if now >= due else None
        if self._pending is not None and now >= self._pending:
            return self._step(now)
        if self.mode != Mode.ACTIVE or now < self._next_step:
            return self._tripped(now)
        due = self._next_step
        decision = self._step(now)
        self.began = due
        if not self.by_reading:  # absolute deadlines; those already gone are missed
            gone = int((self._clock() - due) / self._period)
            self._missed += gone
            self._next_step = due + self._period * (1 + gone)
        return decision

    def record(self, decision: Decision) -> None:
        """Remember a step; after publishing, which should not wait."""
        self.controller.record(decision)

    # ---- inside

    def _live(self) -> float:
        """The time; notices where this process was stopped since the last call."""
        now = self._clock()
        gap, self._alive_at = now - self._alive_at, now
        if self.mode != Mode.ACTIVE or gap <= LATE * self._period:
            return now  # while inactive nobody has to call
        if gap > RATE_GAP:
            self.watchdog.restart_rate()  # what was missed is no slowness of the robot
        if self.by_reading:  # a timer counts its own deadlines
            self._missed += int(gap / self._period)
        if gap > self._robot.command.timeout:
            detail = f"this process did not run for {gap:.2f} s"
            self._trip(Fault.SELF_STALLED, detail, now)
        else:
            self._late = gap
        return now

    def _tripped(self, now: float) -> Decision | None:
        """The answer to a stop that was found while an input was taken."""
        safety = self.controller.safety
        if self.mode == Mode.ACTIVE and safety.latched and self._tripped_at == now:
            return self._step(now)
        return None

    def _trip(self, reason: Fault, detail: str, now: float) -> None:
        self._tripped_at = now
        if detail:
            self._details[reason] = detail
        self.controller.safety.trip(reason)

    def _arrived(self, stamp: float, now: float) -> bool:
        """Is a message of the joints a new reading?"""
        before = self.watchdog.stamp
        arrival = self.watchdog.arrive(stamp, now, self._robot_clock())
        if arrival == Arrival.WENT_BACK:
            detail = f"the robot's clock went back from {before:.3f} s to {stamp:.3f} s"
            if self.mode == Mode.INACTIVE:  # nothing depends on it yet
                self.clock_jumped = True
                self.restart()
                return self._arrived(stamp, now)
            if not self.latched and self.mode == Mode.ACTIVE:
                self._trip(Fault.CLOCK_WENT_BACK, detail, now)
        return arrival == Arrival.NEW

    def _on_reading(self, now: float) -> Decision | None:
        if self.mode == Mode.STARTING:
            self._start_if_usable(now)
        if self.mode != Mode.ACTIVE or not self.by_reading:
            return self._tripped(now)
        soonest = self._stepped_at + SHORTEST_STEP * self._period
        if now < soonest and not self.controller.safety.latched:
            self._pending = soonest  # of a burst: `poll` answers the newest of it
            return None
        return self._step(now)

    def _start_if_usable(self, now: float) -> bool:
        if self.mode != Mode.STARTING:
            return self.mode == Mode.ACTIVE
        if self.state is None:
            return False
        self._believe(self.state)
        found = [*self._problems(now), *self.controller.safety.problems_of(self.state)]
        if any(FIRST_RESPONSE[reason] >= SafetyLevel.HOLD for reason in found):
            return False
        self._begin(now)
        return True

    def _begin(self, now: float) -> None:
        """Command the robot from its measured pose on."""
        assert self.state is not None
        self._details.clear()
        self._believe(self.state)
        self._late = 0.0
        self.controller.start(now, self.state)
        self.mode, self._next_step, self._alive_at = Mode.ACTIVE, now, now
        self._stepped_at = now - self._period
        self._pending = None

    def _believe(self, state: RobotState) -> None:
        """Take a reading for good: what comes next is judged by it."""
        self._check.restart()
        self._rejected = self._imu_rejected = self._frozen = ""
        self._check.jump(state.joint_position, state.joint_velocity, state.stamp)
        if state.orientation is not None:
            self._check.turn(state.orientation, state.stamp)

    def _step(self, now: float) -> Decision:
        """From the newest state to a command."""
        problems = self._problems(now)
        if self._late and self.state is not None:
            note = f"this process did not run for {self._late:.3f} s"
            self._details[Fault.SELF_LATE] = note
            problems.append(Fault.SELF_LATE)
            if not self.latched:
                self.controller.safety.resume(now, self.state, self._late)
            self._late = 0.0
        state = None if self._defect else self.state
        age = self.watchdog.age_by_receipt(now)
        decision = self.controller.step(now, state, problems, age, self._simulated)
        if decision.sent and self._publishes:
            self._check.commanded(decision.command.value)
        self._stepped_at, self.began, self._pending = now, now, None
        if self.by_reading:  # how long without a reading until we step by ourselves
            alive = age < self._period
            self._next_step = now + (self._robot.state.max_age if alive else self._period)
        return decision

    def _rest(self, now: float) -> Decision | None:
        problems = self._problems(now)
        state = None if self._defect else self.state
        if state is not None:
            problems += self.controller.safety.problems_of(state)
        decision, reached = self.controller.leave(now, state, problems)
        self._next_step = now + self._period
        if reached is not None:
            self._end_rest(reached)
        return decision

    def _end_rest(self, reached: RestReached) -> None:
        self.mode, self.rest_reached = Mode.INACTIVE, reached
        self.controller.safety.disarm()
        self.restart()  # the next activation needs readings of its own

    def _give_way(self, now: float, rivals: tuple[str, ...]) -> Decision | None:
        """Somebody else commands the robot: not one more command from us."""
        names = ", ".join(rivals) or "another node"
        if self.mode == Mode.RESTING:
            self._end_rest(RestReached(False, f"{names} has taken over"))
            return None
        if self.mode == Mode.STARTING:
            self._end_rest(RestReached(True, f"nothing was commanded, {names} commands the robot"))
            return None
        self._trip(Fault.COMMAND_CONFLICT, f"{names} commands the robot", now)
        decision = self._step(now)._replace(sent=False)
        self._end_rest(RestReached(False, f"{names} commands the robot"))
        return decision

    def _held_problem(self) -> str:
        """Why a joint that the contract expects to be held is not, as a sentence."""
        expected = self._spec.held_joints
        if not expected:
            return ""
        held = np.full(len(expected), np.nan) if self._held is None else self._held
        for (name, position), got in zip(expected.items(), held, strict=True):
            if not abs(got - position) <= HELD_ERROR:  # nor is a NaN
                return (
                    f"{name}: the policy was trained with it held at {position:g}, got {got:.3g}:"
                    " lead it there and hold it"
                )
        return ""

    def _problems(self, now: float) -> list[Fault]:
        """What is wrong with the inputs as streams; `SafetyFilter` looks at their values."""
        found: list[Fault] = []
        robot_now, watchdog, details = self._robot_clock(), self.watchdog, self._details

        def note(reason: Fault, detail: str) -> None:
            found.append(reason)
            details[reason] = detail

        if self._defect:
            note(Fault.JOINT_MISSING, self._defect)
        if watchdog.is_stale(now, robot_now):
            note(Fault.OBSERVATION_STALE, watchdog.describe_age(now, robot_now))
        elif watchdog.is_ahead(robot_now):
            note(Fault.CLOCK_AHEAD, f"by {-watchdog.age_by_stamp(robot_now):.3g} s")
        if self._imu is not None and self._imu.is_stale(now, robot_now):
            note(Fault.IMU_STALE, self._imu.describe_age(now, robot_now))
        if watchdog.rate_is_wrong:
            note(Fault.WRONG_RATE, f"expected {watchdog.describe_rate()}")
        elif watchdog.rate_is_off:
            note(Fault.RATE_OFF, f"expected {watchdog.describe_rate()}")
        if self._velocity is not None and self._velocity.is_lost(now):
            found.append(Fault.COMMAND_VELOCITY_LOST)
        if self._reordered:
            self._reordered = False
            found.append(Fault.JOINTS_REORDERED)
        if jump := self._check.broken or self._rejected or self._imu_rejected:
            note(Fault.OBSERVATION_JUMP, jump)
        if self._frozen:
            note(Fault.OBSERVATION_FROZEN, self._frozen)
        view = self.view
        if view.state_conflict:
            note(Fault.STATE_CONFLICT, view.state_conflict)
        if view.extra_publishers:
            note(Fault.SECOND_PUBLISHER, "; ".join(view.extra_publishers))
        if view.rivals and self._publishes:
            note(Fault.RIVAL_PUBLISHER, ", ".join(view.rivals))
        if view.type_mismatches:
            note(Fault.TYPE_MISMATCH, "; ".join(view.type_mismatches))
        return found


# reasons that the newest reading itself explains
OF_THE_READING = UNUSABLE.intersection({Fault.OBSERVATION_NAN, Fault.OBSERVATION_OUT_OF_RANGE}) | {
    Fault.TILT
}


def steps_by_reading(drive: str, rate: float, policy_rate: float) -> bool:
    """Does each reading begin a step? `auto`: where the robot publishes at the policy's rate.

    Args:
        drive: auto, observation or timer.
        rate: of the robot's state [Hz].
        policy_rate: of the policy [Hz].
    """
    return abs(rate / policy_rate - 1) <= RATE_TOLERANCE and drive != "timer"
