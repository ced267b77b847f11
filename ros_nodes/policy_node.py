"""policy_node: an exported policy on a robot. `ros2 run dime_robot policy_node`.

Lifecycle: *configure* loads, checks and measures; *activate* permits the first command; every
shutdown (deactivate, error, SIGTERM, SIGINT) brings the robot to rest first. `ControlLoop` makes
all decisions; this node converts messages to its calls and its decisions to messages. See
docs/robot.md.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(cpu=("onnxruntime",), ros=("rclpy",))

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from math import inf
from typing import Any, TypeAlias

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from dime_robot.runtime.control.control_loop import ControlLoop, Mode
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import Dump
from dime_robot.runtime.control.phases import Goal
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.io.errors import InputError
from ros_nodes.autostart import Autostart
from ros_nodes.operator_services import OperatorServices
from ros_nodes.parameters import (
    PolicyParameters,
    help_asked,
    help_of,
    read_parameters,
    require_known_parameters,
)
from ros_nodes.process import MAX_WAIT, NodeClock, StopSignal, realtime_profile, run_node
from ros_nodes.reporting import Reporter
from ros_nodes.robot_link import RobotLink
from ros_nodes.startup_checks import describe, drives_by_reading, load_and_check

POLL_PERIOD = 0.05  # [s] between two polls of the graph, the services and autostart
REPORT_PERIOD = 1.0  # [s] between two diagnostics
DUMP_PERIOD = 5.0  # [s] between two recordings of faults that do not latch
WARNING_PERIOD = 5.0  # [s] between two warnings about task commands, sensors and the joystick
# no level rises with them
QUIET_FAULTS = (
    *(Fault.TASK_COMMAND_LOST, Fault.SIGNAL_REFUSED),
    *(Fault.JOYSTICK_LOST, Fault.JOYSTICK_REFUSED),
)
REST_PAUSE = 0.001  # [s] between two polls of the messages during a shutdown
REST_SLACK = 2.0  # [s] of the wall clock in addition to the longest duration of a shutdown
Outcome: TypeAlias = TransitionCallbackReturn
Transition: TypeAlias = Callable[["PolicyNode", LifecycleState], Outcome]


def _guarded(transition: Transition) -> Transition:
    """Handle exceptions, which rclpy would drop: log a refusal, let a bug end the process."""

    @wraps(transition)
    def run(node: PolicyNode, state: LifecycleState) -> Outcome:
        try:
            return transition(node, state)
        except InputError as error:
            return node._refuse(error.code, str(error))
        except Exception:
            node.get_logger().fatal(traceback.format_exc())
            node.exit_code = 1
            return Outcome.ERROR

    return run


class PolicyNode(LifecycleNode):
    """See the module's docstring and docs/robot.md."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        self._started = time.monotonic()
        self.stop: StopSignal | None = None  # see `process.run_node`
        self.exit_code: int | None = None
        self._link: RobotLink | None = None  # from configure to cleanup
        self.parameters = read_parameters(self, PolicyParameters, self._parameter_problem)
        self._time = NodeClock(self)
        self._reporter = Reporter(self, self._time)
        self._estopped = False  # also while there is no policy
        self._level = SafetyLevel.RUN
        self._warned: dict[Fault, float] = {}  # when each fault was last warned about [s]
        self._active = False  # the state of the lifecycle
        self._next_poll = self._next_report = self._next_dump = 0.0
        self._autostart = Autostart(
            self.parameters.autostart,
            self.parameters.activate_timeout,
            self.trigger_configure,
            self.trigger_activate,
            self.activation_problem,
        )
        self._operator = OperatorServices(self, self)
        if self.parameters.autostart == "none":
            self._log_next("configure")

    # ---- lifecycle

    @_guarded
    def on_configure(self, state: LifecycleState) -> Outcome:
        """Load the policy, refuse an incompatible one, warm up, measure."""
        require_known_parameters(self)
        given = self.parameters = read_parameters(self, PolicyParameters)
        controller, latencies = load_and_check(given)
        controller.recorder.meta["node"] = self.get_fully_qualified_name()
        by_reading = drives_by_reading(given.drive, controller.spec, controller.robot)
        self._time.restart()
        loop = ControlLoop(
            controller,
            by_reading,
            self._time.now,
            self._time.robot_now,
            simulated=self._time.simulated,
            publishes=not given.dry_run,
        )
        loop.estopped = self._estopped
        link = RobotLink(self, loop, self._time, self._run)
        if given.dry_run:
            self._reporter.others = link.compare_with_others()
        if given.realtime:
            self._reporter.granted, refused = realtime_profile(given.priority, given.cpus)
            for sentence in refused:
                self.get_logger().warning(sentence)
        self._link = link
        self._operator.offer(loop)
        self._reporter.refusal = ""
        self._reporter.describe_joystick = loop.describe_joystick
        drive = "observation" if by_reading else "timer"
        text = describe(controller, latencies, f"{drive}, noise {given.noise}")
        where = "none, a dry run" if given.dry_run else f"on {link.graph.command_topic}"
        self.get_logger().info(f"configured: {text}, commands {where}")
        if note := link.describe_joystick():
            self.get_logger().info(note)
        if not self._autostart.activates:
            self._log_next("activate")
        return Outcome.SUCCESS

    @_guarded
    def on_activate(self, state: LifecycleState) -> Outcome:
        """Permit commands, beginning at the measured pose."""
        problem, link = self.activation_problem(), self._link
        if link is None:
            return self._refuse("activation", problem)
        if not problem and not self.parameters.dry_run:
            self._discover_others(link)
            timeout = link.loop.controller.robot.activation.listener_timeout
            problem = self.activation_problem() or link.open(timeout)
        if not problem and self._stop_requests():
            problem = "the process was asked to end"
            link.close()
        if problem:
            return self._refuse("activation", problem)
        self._reporter.refusal = ""
        self._reporter.begin(link.loop)
        self._level, self._active = SafetyLevel.RUN, True
        self._autostart.cancel()
        if assumed := ", ".join(link.graph.assumed_listeners):
            self.get_logger().warning(
                f"command.listener is not set: {assumed} counts as who takes the commands"
            )
        link.loop.activate()
        if self.stop is not None and link.loop.sit_down_time:
            self.stop.max_requests = 2  # the second one means: without sitting down
        self.get_logger().info("active")
        return super().on_activate(state)

    @_guarded
    def on_deactivate(self, state: LifecycleState) -> Outcome:
        """Bring the robot to rest."""
        self._autostart.cancel()
        self._lead_to_rest()
        return super().on_deactivate(state)

    @_guarded
    def on_cleanup(self, state: LifecycleState) -> Outcome:
        """Unload the policy."""
        self._autostart.cancel()
        self._release()
        return Outcome.SUCCESS

    @_guarded
    def on_shutdown(self, state: LifecycleState) -> Outcome:
        """Bring the robot to rest; the process ends."""
        self._autostart.cancel()
        self._lead_to_rest()
        self.exit_code = 0
        return Outcome.SUCCESS

    @_guarded
    def on_error(self, state: LifecycleState) -> Outcome:
        """Bring the robot to rest after an exception in a transition; the process ends with 1."""
        self._autostart.cancel()
        self.close()
        return Outcome.SUCCESS

    def _refuse(self, code: str, problem: str) -> Outcome:
        self._reporter.refusal = f"refused [{code}]: {' '.join(problem.split())}"
        self.get_logger().error(self._reporter.refusal)
        self._reporter.publish()
        return Outcome.FAILURE

    def activation_problem(self) -> str:
        """Return why the robot cannot be commanded now, as one sentence; empty: it can."""
        if self._link is None:
            return "it is not configured"
        self._poll_graph(self._link)
        return self._link.loop.activation_problem()

    def _discover_others(self, link: RobotLink) -> None:
        """Wait until other nodes should have been discovered; readings are processed meanwhile."""
        until = self._started + self.parameters.discovery_time
        while time.monotonic() < until and not self._stop_requests():
            link.serve()
            self._operator.serve()
            time.sleep(REST_PAUSE)

    def _stop_requests(self) -> int:
        return 0 if self.stop is None else self.stop.requests

    def _log_next(self, transition: str) -> None:
        name = self.get_fully_qualified_name()
        self.get_logger().info(f"next: ros2 lifecycle set {name} {transition}")

    # ---- control

    def _run(self, call: Callable[[], Decision | None]) -> None:
        """Run a call of the loop; publish its decision, then report and record it."""
        if self._link is None:
            return
        loop, others = self._link.loop, self._link.others
        if others is not None:
            others.poll()
        try:
            decision = call()
        except Exception:  # a bug, or a policy that fails: record it, and bring the robot to rest
            self.dump("exception")
            self._lead_to_rest(sits=False)
            raise
        if decision is None:
            return
        if decision.sent:
            self._link.publish(decision.command)
        self._reporter.miss(loop.take_missed())
        change = self._reporter.step(decision)
        loop.record(decision)
        self._report_phase(loop, change)
        if others is not None:
            others.step(decision)
        self._warn(loop, decision)
        if decision.level != self._level:
            self._on_level(loop, decision)

    def _report_phase(self, loop: ControlLoop, change: str) -> None:
        """Log what has changed in who commands the robot."""
        if failure := loop.take_failure():
            self._reporter.last_fault = failure
            self.get_logger().error(failure)
        if change:
            self.get_logger().info(change)

    def _warn(self, loop: ControlLoop, decision: Decision) -> None:
        """Log faults with which no level rises, each at once and then rarely."""
        now = time.monotonic()
        found = [fault for fault in decision.faults if fault in QUIET_FAULTS]
        found = [each for each in found if now - self._warned.get(each, -inf) > WARNING_PERIOD]
        if found:
            self._warned |= dict.fromkeys(found, now)
            self.get_logger().warning(loop.explain(found))

    def _on_level(self, loop: ControlLoop, decision: Decision) -> None:
        """Log, report and record the beginning or end of a fault at once."""
        before, self._level = self._level, decision.level
        if max(before, self._level) < SafetyLevel.HOLD:
            return
        if self._level < before:
            self.get_logger().warning(f"{self._level.name.lower()} after {before.name.lower()}")
            return
        faults = loop.explain(decision.faults)
        self._reporter.last_fault = f"{self._level.name.lower()}: {faults}"
        self.get_logger().error(self._reporter.last_fault)
        self._reporter.publish()
        now = time.monotonic()
        if self._level == SafetyLevel.STOP or now >= self._next_dump:
            self._next_dump = now + DUMP_PERIOD
            self.dump(decision.faults[0].value)

    def estop(self) -> None:
        """Stop now and stay stopped, in any state."""
        self._estopped = True
        if self._link is not None:
            self._run(self._link.loop.estop)

    def reset(self) -> str:
        """Release the stop.

        Returns:
            Why it is not released; empty: it is.
        """
        if self._link is None:
            self._estopped = False
            return ""
        loop = self._link.loop
        self._poll_graph(self._link)
        problem = loop.reset()
        self._estopped = loop.estopped
        if not problem and loop.mode == Mode.ACTIVE:
            self._level = SafetyLevel.RUN
        return problem

    def request(self, goal: Goal) -> str:
        """Stand up, run the policy, or sit down.

        Returns:
            Why that is refused, as a sentence; empty: it begins.
        """
        return "it is not configured" if self._link is None else self._link.loop.request(goal)

    def select(self, name: str) -> str:
        """Let another policy act.

        Returns:
            Why that is refused, as a sentence; empty: it acts from the next step on.
        """
        return "it is not configured" if self._link is None else self._link.loop.select(name)

    @property
    def commands(self) -> bool:
        """Whether a robot is commanded."""
        return self._link is not None and self._link.loop.mode == Mode.ACTIVE

    def wait(self) -> float:
        """See `process.Running`."""
        if self._link is None or self._time.simulated:
            return MAX_WAIT
        return self._link.loop.wait()

    def tick(self) -> None:
        """See `process.Running`."""
        if self._link is not None:
            self._run(self._link.loop.poll)
        if self._link is not None and (between := self._link.loop.command_between()) is not None:
            self._link.publish(between)  # no step: neither timed nor recorded
        now = time.monotonic()  # simulated time may be paused
        if now >= self._next_poll:
            self._next_poll = now + POLL_PERIOD
            self._poll()
        if now >= self._next_report:
            self._next_report = now + REPORT_PERIOD
            self._reporter.publish()

    def _poll(self) -> None:
        self._reporter.poll()
        self._operator.poll()
        if self._link is not None:
            self._poll_robot(self._link)
        code, problem = self._autostart.poll()
        if problem:
            self._refuse("activation", problem)
        if code is not None and self.exit_code is None:
            self.exit_code = code

    def _poll_robot(self, link: RobotLink) -> None:
        loop = link.loop
        link.repeat_first()
        self._poll_graph(link)
        if not self._time.is_served:
            detail = "nobody publishes /clock any more"
            self._run(lambda: loop.trip(Fault.OBSERVATION_STALE, detail))
        if loop.clock_jumped:
            loop.clock_jumped = False
            self._time.restart()
            self._autostart.cancel()
            self.get_logger().warning(
                "the robot's clock went back: activate by hand when the robot is ready"
            )
        if self._active and loop.mode == Mode.INACTIVE:
            self.trigger_deactivate()  # the loop has ended by itself, and has logged the reason

    def _poll_graph(self, link: RobotLink) -> None:
        self._run(lambda: link.loop.graph(link.graph.poll()))

    def _parameter_problem(self, parameters: Sequence[Parameter[Any]]) -> str:
        # read when configuring: a change that is accepted but has no effect is dangerous
        if self._link is None:
            return ""
        return f"{', '.join(parameter.name for parameter in parameters)}: clean up first"

    def dump(self, why: str) -> Dump | None:
        """Begin to write a recording; None: there is no policy."""
        if self._link is None:
            return None
        recorder = self._link.loop.controller.recorder
        dump = recorder.dump(self.parameters.recordings_folder, why)
        self._reporter.dumps.append(dump)
        return dump

    # ---- shutdown

    def _lead_to_rest(self, sits: bool = True) -> None:
        """Bring the robot to rest, and log the result. Readings and ~/estop are processed.

        Args:
            sits: whether a robot with phases sits down first, for which its policy may have to run.

        Raises:
            Exception: of the policy, while it ran for that; the robot is at rest nevertheless.
        """
        if not self._active or self._link is None:
            return
        self._active = False
        link, loop = self._link, self._link.loop
        loop.shut_down()
        if not sits:
            loop.hurry()
        error: Exception | None = None
        longest = loop.sit_down_time + loop.controller.safety.rest.max_duration
        until = time.monotonic() + longest + REST_SLACK
        next_poll, requests = 0.0, max(1, self._stop_requests())
        while loop.mode == Mode.RESTING:
            if self._stop_requests() > requests:
                loop.hurry()
            link.serve()
            self._operator.serve()
            decision = None
            try:
                decision = loop.poll()
            except Exception as raised:
                if error is not None:
                    raise
                error = raised
                self.dump("exception")
                loop.hurry()
            if decision is not None:  # no fault: not reported as one
                if decision.sent:
                    link.publish(decision.command)
                loop.record(decision)
                self._report_phase(loop, self._reporter.enter(loop))
            now = time.monotonic()
            if now >= next_poll:
                next_poll = now + POLL_PERIOD
                loop.graph(link.graph.poll())
            if now > until:  # simulated time may be paused
                loop.abort_shutdown("the simulation's clock stands still")
            time.sleep(REST_PAUSE)
        link.close()
        self._time.restart()
        self._reporter.end()
        reached = loop.rest_reached
        if reached is None or reached.at_rest:
            self.get_logger().info(f"inactive, at rest: {'' if reached is None else reached.text}")
        else:
            self.get_logger().warning(f"inactive, robot not at rest: {reached.text}")
        if error is not None:
            raise error

    def _release(self) -> None:
        if self._link is not None:
            self._estopped |= self._link.loop.estopped  # a joystick may have set it
            self._link.destroy()
            self._link.loop.controller.recorder.wait(2.0)
            self._operator.withdraw()
            self._operator.poll()  # respond to callers that wait for a recording
        self._reporter.release()
        self._link = None

    def close(self) -> None:
        """See `process.Running`."""
        self._lead_to_rest()
        self._release()


def main() -> int:
    """Run until a signal."""
    if help_asked(sys.argv[1:]):
        print(help_of(__doc__ or "", PolicyParameters))
        return 0
    return run_node(PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
