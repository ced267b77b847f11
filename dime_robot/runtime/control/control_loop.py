"""ControlLoop: takes readings, returns commands, and handles every fault in between.

It is pure: clocks are passed in, messages become calls, decisions are returned. It monitors all
inputs (`watchdog`, `plausibility`), schedules the steps, responds to faults (`safety_filter`),
stops and re-arms, and brings the robot to rest before it ends (`rest`). It also detects faults of
the clock and of this process. ROS, threads and files are left to the caller.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from dime_robot.runtime.contract.policy_spec import IMU_TERMS, FloatArray, PolicySpec
from dime_robot.runtime.contract.robot_config import RATE_TOLERANCE
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel, serious
from dime_robot.runtime.control.interpolation import BetweenSteps
from dime_robot.runtime.control.joystick import Joystick, Request
from dime_robot.runtime.control.phases import Goal, Phase
from dime_robot.runtime.control.plausibility import ReadingCheck
from dime_robot.runtime.control.rest import RestReached
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.signals import SignalStreams
from dime_robot.runtime.control.state import JointCommand, RobotState
from dime_robot.runtime.control.velocity_command import VelocityCommand
from dime_robot.runtime.control.watchdog import Arrival, StreamWatchdog

START_LIMIT = 1.0  # [s] after activation within which a usable reading has to come
LATE = 2.0  # control periods that this process did not run, after which the command ramps again
RATE_GAP = 0.05  # [s] that this process did not run, after which the rate is measured afresh
MIN_STEP = 0.5  # control periods between two steps that readings begin
HEARTBEATS = 4.0  # calls of `poll` within `command.timeout`, at least
ROUNDING = 0.01  # control periods by which a simulation's stamp may be early
CONFLICT = 2.0  # control periods with commands of another node, after which this one stops
CONFLICT_WITHIN = 5.0  # [s]: commands of another node further apart count as separate
MAX_REQUESTS = 8  # of the joystick that wait to be logged
HELD_ERROR = 0.1  # largest error of a joint that the contract expects to be held [rad or m]

# what an operator requests, by services and by buttons
GOALS = {"stand_up": Goal.STAND, "run_policy": Goal.POLICY, "sit_down": Goal.PASSIVE}


class Mode(Enum):
    """Whether the loop commands the robot."""

    INACTIVE = "inactive"  # monitors its inputs, commands nothing
    STARTING = "starting"  # activated, waits for a usable reading
    ACTIVE = "active"  # commands the robot, or has stopped it
    RESTING = "resting"  # shutting down: brings the robot to rest


class Reading(NamedTuple):
    """One joint state message, in policy order."""

    stamp: float  # on the robot's clock [s]
    position: FloatArray  # shape (n_joints,) [rad or m]
    velocity: FloatArray  # shape (n_joints,) [rad/s or m/s]
    reordered: bool = False  # the order of the joints changed since the previous message
    held: FloatArray | None = None  # of the contract's held joints [rad or m]; NaN: missing
    effort: FloatArray | None = None  # shape (n_joints,) [N m or N]; None: not measured


NOTHING: Mapping[str, str] = MappingProxyType({})


class GraphView(NamedTuple):
    """The other nodes of the ROS graph, as the caller sees them."""

    listeners: tuple[str, ...] = ()  # nodes that take the commands
    rivals: tuple[str, ...] = ()  # other publishers on the command topic
    rival_messages: int = 0  # their commands since the last view
    extra_publishers: tuple[str, ...] = ()  # a phrase for each input with more than one publisher
    state_shared: str = ""  # a sentence, where two publishers send the same joints or the imu
    state_conflict: str = ""  # a phrase, where their readings contradict each other
    velocity_conflict: str = ""  # a sentence, where two velocity publishers are refused
    joystick_conflict: str = ""  # a sentence, where there are two joysticks
    type_mismatches: tuple[str, ...] = ()  # a sentence each
    signal_senders: Mapping[str, str] = NOTHING  # signal -> nodes that publish it, or did
    signal_conflicts: Mapping[str, str] = NOTHING  # signal -> a sentence, as velocity_conflict


class ControlLoop:
    """See the module's docstring.

    Args:
        controller: policy, safety filter and recorder of one robot.
        by_reading: step at each reading; else at the absolute deadlines of a timer.
        clock: steady time [s]; in simulation the simulation's.
        robot_clock: time on the clock of the messages' stamps [s].
        simulated: the clock is a simulation's, which may pause: rates are not checked.
        publishes: False in a dry run, whose commands are not sent.

    Attributes:
        between: the deadlines of the commands between two steps; None: without an interpolation,
            or in simulated time, where the simulated robot interpolates.
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
        spec, robot = controller.spec, controller.robot
        self._spec, self._robot, self._period = spec, robot, spec.period
        self.watchdog = StreamWatchdog(
            robot.state.max_age,
            robot.state.same_clock,
            None if simulated else robot.state.rate,
            lossy=not by_reading,
        )
        self._imu: StreamWatchdog | None = None
        if robot.imu is not None and (spec.needs(*IMU_TERMS) or robot.limits_tilt):
            self._imu = StreamWatchdog(robot.imu.max_age, robot.state.same_clock)
        self._joystick: Joystick | None = None
        if robot.joystick is not None:
            self._joystick = Joystick(robot.joystick, robot.command_velocity)
        self._requests: deque[tuple[str, str]] = deque(maxlen=MAX_REQUESTS)
        # one source of the velocity: the axes of a joystick, or else the topic
        self._driver: Joystick | VelocityCommand | None = None
        self._velocity: VelocityCommand | None = None
        if robot.command_velocity is not None and spec.needs("command_velocity"):
            if self._joystick is not None and self._joystick.drives:
                self._driver = self._joystick
            else:
                self._driver = self._velocity = VelocityCommand(robot.command_velocity)
        self.signals = SignalStreams(spec, robot)
        # of the feet, by arrival: their message has no stamp
        self._contact_age = np.inf if robot.contact is None else robot.contact.max_age  # [s]
        self.needs_contact = spec.needs("foot_contact") and robot.contact is not None
        self._check = ReadingCheck(spec, robot)
        controller.input_problem = self._input_problem
        self.mode = Mode.INACTIVE
        self.estopped = False
        self.rest_reached: RestReached | None = None  # how the last shutdown ended
        self.view = GraphView()
        self.clock_jumped = False  # while inactive; see `restart`
        self._called_at = clock()  # when this object was last called [s]
        self._stepped_at = self._next_step = 0.0
        self.command_topic = robot.command.topic  # for messages; the caller may resolve it
        self.began = 0.0  # when the last step was due [s]
        self._details: dict[Fault, str] = {}  # a phrase about each fault
        self._missed = 0
        self._rival_since: float | None = None  # start of a conflict [s]
        self._rival_last = 0.0
        self._sits_until: float | None = None  # in a shutdown, while it sits down [s]
        self._failure = ""  # of a phase, as a sentence
        self.between: BetweenSteps | None = None
        if simulated:
            controller.safety.path = None
        elif robot.command.interpolated:
            self.between = BetweenSteps(robot.command.interpolated.per_step(spec), spec.period)
        self.restart()

    def restart(self) -> None:
        """Forget all readings: the robot was restarted, or its clock was set."""
        self.state: RobotState | None = None  # the newest plausible reading
        self.watchdog.restart()
        if self._imu is not None:
            self._imu.restart()
        if self._velocity is not None:
            self._velocity.restart()
        if self._joystick is not None:
            self._joystick.restart()
        self.signals.restart()
        self._check.restart()
        self._orientation: FloatArray | None = None
        self._angular_velocity: FloatArray | None = None
        self._held: FloatArray | None = None
        self._contact: FloatArray | None = None
        self._contact_at = -np.inf  # steady time [s]
        self._defect = self._rejected = self._imu_rejected = self._frozen = ""
        self._reordered = False
        self._late = 0.0  # how long this process just did not run [s]
        self._pending: float | None = None  # when the newest reading of a burst is used [s]
        self._tripped_at = -np.inf

    @property
    def latched(self) -> bool:
        """Whether it is active and stopped."""
        return self.mode == Mode.ACTIVE and self.controller.safety.latched

    @property
    def phase(self) -> Phase:
        """What commands the robot; `policy` where it has no phases."""
        return self.controller.phases.phase

    @property
    def sit_down_time(self) -> float:
        """Longest duration of sitting down before a shutdown [s]; 0 without phases."""
        phases = self._robot.phases
        return 0.0 if phases is None else phases.sit_down_time

    @property
    def needs_imu(self) -> bool:
        """Whether readings of an imu are needed."""
        return self._imu is not None

    @property
    def needs_velocity(self) -> bool:
        """Whether the policy needs a velocity that comes on the topic of `command_velocity`."""
        return self._velocity is not None

    @property
    def drives_by_joystick(self) -> bool:
        """Whether the velocity comes from the axes of the joystick."""
        return self._driver is not None and self._driver is self._joystick

    def take_missed(self) -> int:
        """Return the number of missed deadlines since the last call."""
        missed, self._missed = self._missed, 0
        return missed

    # ---- inputs

    def joint_state(self, reading: Reading) -> Decision | None:
        """Take a joint reading; return the command if a step begins with it."""
        now = self._live()
        if not self._arrived(reading.stamp, now):
            return self._tripped(now)
        self._defect, self._held = "", reading.held
        self._reordered |= reading.reordered
        position, velocity = reading.position, reading.velocity
        self._rejected = self._check.position_jump(position, velocity, reading.stamp)
        if self._publishes:
            self._frozen = self._check.frozen(position, velocity, now)
        if not self._rejected or self._check.broken:  # a broken sensor is a fault of its own
            self.state = RobotState(
                reading.stamp,
                position,
                velocity,
                self._orientation,
                self._angular_velocity,
                self._commanded_velocity(now),
                self.signals.values(now, self._robot_clock()),
                reading.effort,
                self._contact,
            )
        return self._on_reading(now)

    def unusable(self, defect: str) -> Decision | None:
        """Take a joint state message that cannot be used; `defect` is the reason, a phrase."""
        now = self._live()
        self._defect = defect
        return self._on_reading(now)

    def imu(
        self, stamp: float, orientation: FloatArray, angular_velocity: FloatArray
    ) -> Decision | None:
        """Take a reading of the imu; return the stop command if it caused a stop.

        Args:
            stamp: on the robot's clock [s].
            orientation: base to world, shape (4,), w x y z; NaN: not measured.
            angular_velocity: in the base's frame, shape (3,) [rad/s]; NaN: not measured.
        """
        assert self._imu is not None
        now = self._live()
        if self._imu.arrive(stamp, now, self._robot_clock()) == Arrival.NEW:
            self._imu_rejected = self._check.orientation_jump(orientation, stamp)
            if not self._imu_rejected:
                self._orientation, self._angular_velocity = orientation, angular_velocity
                if self.state is not None:
                    self.state = self.state._replace(
                        orientation=orientation, angular_velocity=angular_velocity
                    )
        return self._tripped(now)

    def contact(self, contact: FloatArray) -> None:
        """Take a reading of the feet.

        Args:
            contact: of each of `PolicySpec.feet` 1 or 0; NaN: not measured; shape (n_feet,) [1].
        """
        self._contact, self._contact_at = contact, self._clock()
        if self.state is not None:
            self.state = self.state._replace(foot_contact=contact)

    def velocity(self, velocity: FloatArray) -> None:
        """Take the operator's velocity command, shape (3,) [m/s, m/s, rad/s].

        Args:
            velocity: shape (3,) [m/s, m/s, rad/s].
        """
        assert self._velocity is not None
        if self.view.velocity_conflict:  # its sender is not known
            return
        now = self._clock()
        self._velocity.receive(velocity, now)
        self._show_velocity(now)

    def joystick(self, axes: FloatArray, buttons: Sequence[int]) -> Decision | None:
        """Take a message of the joystick; return the stop command if it caused a stop.

        Args:
            axes: shape (n,) [1].
            buttons: 0 or 1 each.
        """
        assert self._joystick is not None
        now = self._live()
        pressed = self._joystick.receive(axes, buttons, now, self.view.joystick_conflict)
        self._show_velocity(now)
        if pressed.estop:
            return self.estop("by the joystick")
        for request in pressed.requests:
            self._respond_to(request, now)
        return self._tripped(now)

    def take_requests(self) -> list[tuple[str, str]]:
        """Return what the joystick requested since the last call, and why that is refused."""
        taken = list(self._requests)
        self._requests.clear()
        return taken

    def signal(
        self, name: str, values: FloatArray, stamp: float | None = None, frame: str | None = None
    ) -> None:
        """Take a message of a task command or a sensor.

        Args:
            name: of the signal.
            values: its numbers, shape (n,) [SI units].
            stamp: on the robot's clock [s]; None: its type has none.
            frame: its frame_id; None: its type has none.
        """
        if name in self.view.signal_conflicts:  # its sender is not known
            return
        now, robot_now = self._clock(), self._robot_clock()
        self.signals[name].receive(values, now, robot_now, stamp, frame)
        if self.state is not None:  # in lockstep no other reading comes before the first step
            self.state = self.state._replace(signals=self.signals.values(now, robot_now))

    def graph(self, view: GraphView) -> Decision | None:
        """Take a new view of the ROS graph; return a command if it caused a stop."""
        now = self._live()
        self.view = view
        if view.velocity_conflict and self._velocity is not None:
            self._velocity.restart()
        if view.joystick_conflict and self._joystick is not None:
            self._joystick.distrust(view.joystick_conflict)
            self._show_velocity(now)
        if not self._publishes or self.mode == Mode.INACTIVE:
            return None
        if view.rival_messages:
            if self._rival_since is None or now - self._rival_last > CONFLICT_WITHIN:
                self._rival_since = now - self._period
            self._rival_last = now
            if now - self._rival_since >= CONFLICT * self._period:
                return self._yield_to(view.rivals, now)
        if not view.listeners:
            if self.mode == Mode.RESTING:
                self._end_rest(RestReached(False, "nobody listens to the commands any more"))
                return None
            return self.trip(Fault.LISTENER_LOST, "the node that takes the commands has gone")
        return self._tripped(now)

    # ---- operator

    def estop(self, detail: str = "") -> Decision | None:
        """Stop now and stay stopped, in any mode; `detail` says who asked for it, a phrase."""
        self.estopped = True
        return self.trip(Fault.ESTOP, detail)

    def reset(self) -> str:
        """Release the stop and continue from the measured pose.

        Returns:
            Why that is not possible, as a sentence; empty: it is released.
        """
        if self._joystick is not None and self._joystick.stops(self._clock()):
            return self._joystick.problem(self._clock())
        before, self.estopped = self.estopped, False
        if not self.latched:
            return ""
        problem = self.activation_problem()
        if not problem and self.watchdog.received <= self._tripped_at:
            problem = "expected a reading that came after the stop"
        if problem:
            self.estopped = before
            return problem
        self._begin(self._clock(), waits=True)
        return ""

    def request(self, goal: Goal) -> str:
        """Ask for a goal of the phases: lie, stand, or run the policy.

        Returns:
            Why it is refused, as a sentence; empty: it is accepted.
        """
        return self._not_now() or self.controller.request(goal, self._newest())

    def select(self, name: str) -> str:
        """Let another policy act, from the next step on.

        Args:
            name: one of `Controller.policies`.

        Returns:
            Why it is refused, as a sentence; empty: it is selected.
        """
        return self._not_now() or self.controller.select(name, self._newest())

    def _not_now(self) -> str:
        """Return why nothing can be requested, as a sentence; empty: it can."""
        if self.mode != Mode.ACTIVE:
            return f"expected an active policy_node, it is {self.mode.value}"
        if self.latched:
            return f"stopped: {self.explain(self.controller.safety.cause)}: re-arm it first"
        if self.controller.safety.level > SafetyLevel.CLAMP or self._defect:
            return f"it responds to a fault: {self.explain(self.controller.safety.cause)}"
        return ""

    def _newest(self) -> RobotState:
        assert self.state is not None  # active
        return self.state

    def take_failure(self) -> str:
        """Return why a phase failed since the last call, as a sentence; empty: none has."""
        failure, self._failure = self._failure, ""
        return failure

    def trip(self, fault: Fault, detail: str = "") -> Decision | None:
        """Stop now and stay stopped, if active; return the stop command if the stop is new."""
        if self.mode == Mode.RESTING:
            self._sits_until = None
        if self.mode == Mode.STARTING:
            self._end_rest(RestReached(True, f"nothing was commanded: {fault.value}"))
        if self.mode != Mode.ACTIVE:
            return None
        safety = self.controller.safety
        is_new = fault not in safety.cause or not safety.latched
        now = self._clock()
        self._trip(fault, detail, now)
        return self._step(now) if is_new else None

    def activate(self) -> None:
        """Start commanding at the next usable reading; check `activation_problem` first."""
        now = self._live()
        self.rest_reached, self._rival_since = None, None
        self.mode, self._next_step = Mode.STARTING, now + START_LIMIT
        self._start_if_usable(now)

    def shut_down(self) -> None:
        """Begin the shutdown: from now on the robot sits down where it can, and comes to rest."""
        if self.mode == Mode.STARTING:
            self._end_rest(RestReached(True, "nothing was commanded"))
        if self.mode == Mode.ACTIVE:
            now = self._clock()
            sits = self._publishes and self.controller.phases.exists and not self._not_now()
            self._sits_until = None
            if sits and not self.controller.request(Goal.PASSIVE, self._newest()):
                self._sits_until = now + self.sit_down_time
            self.mode, self._next_step, self._called_at = Mode.RESTING, now, now

    def hurry(self) -> None:
        """Come to rest at once, without sitting down first."""
        self._sits_until = None

    def abort_shutdown(self, why: str) -> None:
        """End a shutdown that cannot be completed; `why` is the reason, a phrase."""
        if self.mode == Mode.RESTING:
            self._end_rest(RestReached(False, why))

    def activation_problem(self) -> str:
        """Return why the robot cannot be commanded now, as one sentence; empty: it can."""
        topic, now = self._robot.state.topic, self._clock()
        if self.estopped:
            return "the emergency stop is set: call ~/reset_estop first"
        if self.view.state_shared:  # first, since it can cause most of the others
            return self.view.state_shared
        if self._defect:
            return f"{topic}: {self._defect}"
        if self.state is None:
            note = f": {self.watchdog.stamp_error}" if self.watchdog.stamp_error else ""
            return f"expected the robot's state on {topic}, got none yet{note}"
        if not self._simulated:
            if self.watchdog.stamp_error:
                return f"{topic}: {self.watchdog.stamp_error}"
            if self.watchdog.rate is None:
                return f"expected readings of {topic} for half a second first"
            if self.watchdog.rate_is_unusable:
                return f"expected {topic} at {self.watchdog.describe_rate()}"
        has_phases = self.controller.phases.exists  # a policy starts later
        if not has_phases and (problem := self._input_problem(self.controller.policy.spec)):
            return problem
        safety = self.controller.safety
        found = serious([*self._stream_faults(now), *safety.faults_in(self.state)])
        if self._check.settled:  # the operator accepts the readings that followed a jump
            found = [fault for fault in found if fault != Fault.OBSERVATION_JUMP]
        if found:
            return f"the robot's state is not usable: {self.explain(found)}"
        if problem := self.controller.start_problem(self.state) or self._held_problem():
            return problem
        if self.view.velocity_conflict and not has_phases:
            return self.view.velocity_conflict
        if self.view.joystick_conflict:
            return self.view.joystick_conflict
        if self._joystick is not None and (
            problem := self._joystick.problem(now, self.view.type_mismatches)
        ):
            return problem
        if self._publishes and not self.view.listeners:
            why = self.view.type_mismatches[0] if self.view.type_mismatches else ""
            topic = self.command_topic
            return why or f"nobody listens on {topic}: is the robot's controller active?"
        if self._publishes and self.view.rivals:
            return self.rivals_problem(self.view.rivals)
        return ""

    def describe_joystick(self) -> str:
        """Describe the joystick for diagnostics; empty: there is none."""
        return "" if self._joystick is None else self._joystick.describe(self._clock())

    def _input_problem(self, spec: PolicySpec) -> str:
        """Return which stream of a policy's inputs does not suffice, a sentence; empty: all do."""
        for name, conflict in self.view.signal_conflicts.items():  # their messages are ignored
            if name in spec.signals:
                return conflict
        if spec.needs("foot_contact") and self._clock() - self._contact_at >= self._contact_age:
            return "expected a reading of the feet, got none that is recent"
        return self.signals.problem(self.view.type_mismatches, spec.signals)

    def rivals_problem(self, rivals: tuple[str, ...]) -> str:
        """Describe other publishers on the command topic, as a sentence."""
        return (
            f"{len(rivals)} other publisher(s) on {self.command_topic}: stop {', '.join(rivals)}"
            " first, only one node may command a robot"
        )

    def explain(self, faults: tuple[Fault, ...] | list[Fault]) -> str:
        """List faults with the details of each, for a log."""
        reading = "" if self.state is None else self.controller.safety.describe(self.state)
        texts = []
        for fault in dict.fromkeys(faults):
            detail = self._details.get(fault, "")
            if fault in READING_FAULTS:
                detail = reading
            texts.append(f"{fault.value} ({detail})" if detail else fault.value)
        return ", ".join(texts)

    # ---- time

    def wait(self) -> float:
        """Return how long the caller may wait for messages before it calls `poll` [s]."""
        if self.mode == Mode.INACTIVE:
            return np.inf
        due = self._next_step if self._pending is None else min(self._next_step, self._pending)
        if self.between is not None and self.mode == Mode.ACTIVE:
            due = min(due, self.between.due)
        return min(due - self._clock(), self._robot.command.timeout / HEARTBEATS)

    def poll(self) -> Decision | None:
        """Return a command if one is due without a new message."""
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
        if not self.by_reading:  # absolute deadlines; those that have passed are missed
            missed = int((self._clock() - due) / self._period)
            self._missed += missed
            self._next_step = due + self._period * (1 + missed)
            if self.between is not None:
                self.between.align(due)
        return decision

    def command_between(self) -> JointCommand | None:
        """Return a command between two steps if one is due; call it after `poll`."""
        between, now = self.between, self._clock()
        if between is None or self.mode != Mode.ACTIVE:
            return None
        if self._late:  # the next step leads to the measured pose
            between.end(now)
        if not between.is_due(now):
            return None
        command = self.controller.between(now)
        if command is not None and self._publishes:
            self._check.commanded(command.value, now)
        return command

    def record(self, decision: Decision) -> None:
        """Record a step. Call it after publishing, which should not wait for it."""
        self.controller.record(decision)

    # ---- inside

    def _commanded_velocity(self, now: float) -> FloatArray | None:
        return None if self._driver is None else self._driver.at(now)

    def _show_velocity(self, now: float) -> None:
        """Let the next step see the newest velocity command, also if no other reading comes."""
        if self.state is not None and self._driver is not None:
            self.state = self.state._replace(command_velocity=self._driver.at(now))

    def _respond_to(self, request: Request, now: float) -> None:
        """Do what a button of the joystick requests, or report why not."""
        assert self._joystick is not None
        problem = request.problem or self._requested(request)
        self._requests.append((request.title, problem))
        if problem:
            self._joystick.refuse(request, problem, now)

    def _requested(self, request: Request) -> str:
        """Pass a request on; return why it is refused, as a sentence; empty: it is not."""
        if request.what == "select":
            return self.select(request.policy)
        if request.what in GOALS:
            return self.request(GOALS[request.what])
        names, step = list(self.controller.policies), 1 if request.what == "next_policy" else -1
        if len(names) == 1:
            return f"expected several policies, there is only {names[0]}"
        return self.select(names[(names.index(self.controller.selected) + step) % len(names)])

    def _sit_down_without_joystick(self, now: float) -> None:
        """Sit down if the joystick has been silent for too long, as soon as nothing forbids it."""
        given, phases = self._robot.joystick, self.controller.phases
        if given is None or given.sit_down_after is None or self.mode != Mode.ACTIVE:
            return
        assert self._joystick is not None
        silence = self._joystick.silence(now)
        if silence <= given.sit_down_after or phases.goal == Goal.PASSIVE:
            return
        if not self.request(Goal.PASSIVE):
            self._failure = f"sits down: no usable message of the joystick for {silence:.1f} s"

    def _live(self) -> float:
        """Return the time, and detect whether this process was suspended since the last call."""
        now = self._clock()
        gap, self._called_at = now - self._called_at, now
        if self.mode == Mode.RESTING and gap > self._robot.command.timeout:
            self._sits_until = None
        if self.mode != Mode.ACTIVE or gap <= LATE * self._period:
            return now  # the caller need not call while inactive
        if gap > RATE_GAP:
            self.watchdog.restart_rate()  # missed readings do not mean a slow robot
        if self.by_reading:  # a timer counts its own deadlines
            self._missed += int(gap / self._period)
        if gap > self._robot.command.timeout:
            detail = f"this process did not run for {gap:.2f} s"
            self._trip(Fault.SELF_STALLED, detail, now)
        else:
            self._late = gap
        return now

    def _tripped(self, now: float) -> Decision | None:
        """Return the stop command if this call caused a stop."""
        safety = self.controller.safety
        if self.mode == Mode.ACTIVE and safety.latched and self._tripped_at == now:
            return self._step(now)
        return None

    def _trip(self, fault: Fault, detail: str, now: float) -> None:
        self._tripped_at = now
        if detail:
            self._details[fault] = detail
        self.controller.safety.trip(fault)

    def _arrived(self, stamp: float, now: float) -> bool:
        """Whether a joint state message is a new reading."""
        before = self.watchdog.stamp
        arrival = self.watchdog.arrive(stamp, now, self._robot_clock())
        if arrival == Arrival.WENT_BACK:
            detail = f"the robot's clock went back from {before:.3f} s to {stamp:.3f} s"
            if self.mode == Mode.INACTIVE:  # nothing depends on the clock yet
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
        earliest = self._stepped_at + MIN_STEP * self._period
        if now < earliest and not self.controller.safety.latched:
            self._pending = earliest  # of a burst, `poll` uses the newest
            return None
        return self._step(now)

    def _start_if_usable(self, now: float) -> bool:
        if self.mode != Mode.STARTING:
            return self.mode == Mode.ACTIVE
        if self.state is None:
            return False
        self._accept(self.state)
        if serious([*self._stream_faults(now), *self.controller.safety.faults_in(self.state)]):
            return False
        self._begin(now)
        return True

    def _begin(self, now: float, waits: bool = False) -> None:
        """Start commanding the robot, from its measured pose.

        Args:
            now: steady time [s].
            waits: a robot with phases waits for a request: a release must not move it.
        """
        assert self.state is not None
        self._details.clear()
        self._accept(self.state)
        self._late = 0.0
        self.controller.start(now, self.state, waits=waits)
        self.mode, self._next_step, self._called_at = Mode.ACTIVE, now, now
        self._stepped_at = now - self._period
        self._pending = None

    def _accept(self, state: RobotState) -> None:
        """Accept a reading as true: the next ones are compared with it."""
        self._check.restart()
        self._rejected = self._imu_rejected = self._frozen = ""
        self._check.position_jump(state.joint_position, state.joint_velocity, state.stamp)
        if state.orientation is not None:
            self._check.orientation_jump(state.orientation, state.stamp)

    def _step(self, now: float) -> Decision:
        """Compute the command from the newest state."""
        self._sit_down_without_joystick(now)
        faults = self._stream_faults(now)
        if self._late and self.state is not None:
            note = f"this process did not run for {self._late:.3f} s"
            self._details[Fault.SELF_LATE] = note
            faults.append(Fault.SELF_LATE)
            if not self.latched:
                self.controller.safety.resume(now, self.state, self._late)
            self._late = 0.0
        state = None if self._defect else self.state
        age = self.watchdog.age_by_receipt(now)
        self.controller.phases.failure = ""
        decision = self.controller.step(now, state, faults, age, self._simulated)
        if failure := self.controller.phases.failure:
            self._failure = self._details[Fault.PHASE_FAILED] = failure
        if decision.sent and self._publishes:
            self._check.commanded(decision.command.value, now)
        self._stepped_at, self.began, self._pending = now, now, None
        if self.between is not None:
            self.between.end(now)
            if decision.goal is not None:
                self.between.begin(now)
        if self.by_reading:  # the latest time of the next step, with or without a reading
            fresh = age < self._period
            self._next_step = now + (self._robot.state.max_age if fresh else self._period)
        return decision

    def _rest(self, now: float) -> Decision | None:
        if self._sits_until is not None:
            return self._sit_down(now, self._sits_until)
        faults = self._stream_faults(now)
        state = None if self._defect else self.state
        if state is not None:
            faults += self.controller.safety.faults_in(state)
        decision, reached = self.controller.shut_down(now, state, faults)
        self._next_step = now + self._period
        if reached is not None:
            self._end_rest(reached)
        return decision

    def _sit_down(self, now: float, until: float) -> Decision:
        """Take a step of sitting down, which ends with the phase, a fault, or its time."""
        decision = self._step(now)
        self._next_step = now + self._period
        lies = self.phase == Phase.PASSIVE
        if lies or decision.level >= SafetyLevel.HOLD or now > until:
            self._sits_until = None
        return decision

    def _end_rest(self, reached: RestReached) -> None:
        self.mode, self.rest_reached = Mode.INACTIVE, reached
        self.controller.safety.disarm()
        self.restart()  # the next activation needs readings of its own

    def _yield_to(self, rivals: tuple[str, ...], now: float) -> Decision | None:
        """End without another command, since another node commands the robot."""
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
        """Return which joint is not where the contract expects it to be held; empty: none."""
        expected = self._spec.held_joints
        if not expected:
            return ""
        held = np.full(len(expected), np.nan) if self._held is None else self._held
        for (name, position), got in zip(expected.items(), held, strict=True):
            if not abs(got - position) <= HELD_ERROR:  # NaN compares false
                return (
                    f"{name}: the policy was trained with it held at {position:g}, got {got:.3g}:"
                    " move it there and hold it"
                )
        return ""

    def _stream_faults(self, now: float) -> list[Fault]:
        """List the faults of the inputs as streams; `SafetyFilter` checks their values."""
        found: list[Fault] = []
        robot_now, watchdog, details = self._robot_clock(), self.watchdog, self._details

        def note(fault: Fault, detail: str) -> None:
            found.append(fault)
            details[fault] = detail

        if self._defect:
            note(Fault.JOINT_MISSING, self._defect)
        if watchdog.is_stale(now, robot_now):
            note(Fault.OBSERVATION_STALE, watchdog.describe_age(now, robot_now))
        elif watchdog.is_ahead(robot_now):
            note(Fault.CLOCK_AHEAD, f"by {-watchdog.age_by_stamp(robot_now):.3g} s")
        if self._imu is not None and self._imu.is_stale(now, robot_now):
            note(Fault.IMU_STALE, self._imu.describe_age(now, robot_now))
        contact = self.needs_contact and self.controller.safety.needs.contact
        if contact and (age := now - self._contact_at) >= self._contact_age:
            since = "" if self._contact is None else f" for {age:.3f} s"
            note(Fault.CONTACT_STALE, f"no reading of the feet{since}")
        if watchdog.rate_is_wrong:
            note(Fault.WRONG_RATE, f"expected {watchdog.describe_rate()}")
        elif watchdog.rate_is_off:
            note(Fault.RATE_OFF, f"expected {watchdog.describe_rate()}")
        needs = self.controller.safety.needs  # of the policy, if it commands
        if self._velocity is not None and needs.command and self._velocity.is_lost(now):
            found.append(Fault.COMMAND_VELOCITY_LOST)
        if self._joystick is not None:
            for fault, detail in self._joystick.faults(now).items():
                note(fault, detail)
        signals = self.signals.faults(now, robot_now, self.view.signal_senders, needs.signals)
        for fault, detail in signals.items():
            note(fault, detail)
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


# described by `SafetyFilter.describe` from the newest reading
READING_FAULTS = (Fault.OBSERVATION_NAN, Fault.OBSERVATION_OUT_OF_RANGE, Fault.TILT)


def steps_by_reading(drive: str, rate: float, policy_rate: float) -> bool:
    """Whether each reading begins a step.

    Args:
        drive: "timer": never; else where the robot publishes at the policy's rate.
        rate: of the robot's readings [Hz].
        policy_rate: of control [Hz].
    """
    return abs(rate / policy_rate - 1) <= RATE_TOLERANCE and drive != "timer"
