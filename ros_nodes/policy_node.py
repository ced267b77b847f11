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
from typing import Any, TypeAlias

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from dime_robot.runtime.control.control_loop import ControlLoop, Mode
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import Dump
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.io.errors import InputError
from ros_nodes.autostart import Autostart
from ros_nodes.operator_services import OperatorServices
from ros_nodes.parameters import PolicyParameters, read_parameters, require_known_parameters
from ros_nodes.process import MAX_WAIT, NodeClock, realtime_profile, run_node
from ros_nodes.reporting import Reporter
from ros_nodes.robot_link import RobotLink
from ros_nodes.startup_checks import describe, drives_by_reading, load_and_check

POLL_PERIOD = 0.05  # [s] between two polls of the graph, the services and autostart
REPORT_PERIOD = 1.0  # [s] between two diagnostics
DUMP_PERIOD = 5.0  # [s] between two recordings of faults that do not latch
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
        self.stop_requested: Callable[[], bool] = lambda: False  # see `process.run_node`
        self.exit_code: int | None = None
        self._link: RobotLink | None = None  # from configure to cleanup
        self.parameters = read_parameters(self, PolicyParameters, self._parameter_problem)
        self._time = NodeClock(self)
        self._reporter = Reporter(self, self._time)
        self._estopped = False  # also while there is no policy
        self._level = SafetyLevel.RUN
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
        controller, latency = load_and_check(given)
        controller.recorder.meta["node"] = self.get_fully_qualified_name()
        by_reading = drives_by_reading(given.drive, controller.policy.spec, controller.robot)
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
        if given.realtime:
            self._reporter.granted, refused = realtime_profile(given.priority, given.cpus)
            for sentence in refused:
                self.get_logger().warning(sentence)
        self._link = link
        self._reporter.refusal = ""
        drive = "observation" if by_reading else "timer"
        text = describe(controller, latency, f"{drive}, noise {given.noise}")
        where = "none, a dry run" if given.dry_run else f"on {link.graph.command_topic}"
        self.get_logger().info(f"configured: {text}, commands {where}")
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
        if not problem and self.stop_requested():
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
        while time.monotonic() < until and not self.stop_requested():
            link.serve()
            self._operator.serve()
            time.sleep(REST_PAUSE)

    def _log_next(self, transition: str) -> None:
        name = self.get_fully_qualified_name()
        self.get_logger().info(f"next: ros2 lifecycle set {name} {transition}")

    # ---- control

    def _run(self, call: Callable[[], Decision | None]) -> None:
        """Run a call of the loop; publish its decision, then report and record it."""
        if self._link is None:
            return
        loop = self._link.loop
        try:
            decision = call()
        except Exception:  # a bug, or a policy that fails: record it, and bring the robot to rest
            self.dump("exception")
            self._lead_to_rest()
            raise
        if decision is None:
            return
        if decision.sent:
            self._link.publish(decision.command)
        self._reporter.miss(loop.take_missed())
        self._reporter.step(decision)
        loop.record(decision)
        if decision.level != self._level:
            self._on_level(loop, decision)

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

    def _lead_to_rest(self) -> None:
        """Bring the robot to rest, and log the result. Readings and ~/estop are processed."""
        if not self._active or self._link is None:
            return
        self._active = False
        link, loop = self._link, self._link.loop
        loop.shut_down()
        until = time.monotonic() + loop.controller.safety.rest.max_duration + REST_SLACK
        next_poll = 0.0
        while loop.mode == Mode.RESTING:
            link.serve()
            self._operator.serve()
            decision = loop.poll()
            if decision is not None:  # no fault: not reported as one
                if decision.sent:
                    link.publish(decision.command)
                loop.record(decision)
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

    def _release(self) -> None:
        if self._link is not None:
            self._link.destroy()
            self._link.loop.controller.recorder.wait(2.0)
            self._operator.poll()  # respond to callers that wait for a recording
        self._reporter.release()
        self._link = None

    def close(self) -> None:
        """See `process.Running`."""
        self._lead_to_rest()
        self._release()


def main() -> int:
    """Run until a signal."""
    return run_node(PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
