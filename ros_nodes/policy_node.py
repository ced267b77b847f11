"""policy_node: an exported policy on a robot. `ros2 run dime_robot policy_node`.

Lifecycle: *configure* loads, checks and measures; *activate* permits the first command; every way
out (deactivate, error, SIGTERM, SIGINT) leads the robot to rest first. What is decided is decided
by `ControlLoop`; here messages become its calls, and its decisions messages. See docs/robot.md.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(cpu=("onnxruntime",), ros=("rclpy",))

import sys
import time
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeAlias

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from dime_robot.runtime.control.control_loop import ControlLoop, Mode
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import Dump
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.io.errors import InputError
from ros_nodes.autostart import Autostart
from ros_nodes.commissioning import describe, drives_by_reading, load_and_check
from ros_nodes.operator_services import Operator
from ros_nodes.parameters import (
    PolicyParameters,
    check_parameters,
    read_parameters,
    require_known_parameters,
)
from ros_nodes.process import LONGEST_WAIT, NodeClock, realtime_profile, run_node
from ros_nodes.reporting import Reporter
from ros_nodes.robot_link import RobotLink

LOOK = 0.05  # [s] between two looks at who else is on the topics
REPORT = 1.0  # [s] between two diagnostics
DUMP_PAUSE = 5.0  # [s] between two recordings of faults that do not latch
REST_PAUSE = 0.001  # [s] between two looks at the messages on the way out
REST_SLACK = 2.0  # [s] of the wall clock on top of the time that the way out may take
Outcome: TypeAlias = TransitionCallbackReturn
Transition: TypeAlias = Callable[["PolicyNode", LifecycleState], Outcome]


def _guarded(transition: Transition) -> Transition:
    """Guard what rclpy would swallow: a refusal is said, a bug ends the process."""

    @wraps(transition)
    def run(node: PolicyNode, state: LifecycleState) -> Outcome:
        try:
            return transition(node, state)
        except InputError as error:
            return node._refuse(error.code, str(error))
        except Exception:
            return node._fail()

    return run


class Configured(NamedTuple):
    """What exists from configure to cleanup."""

    controller: Controller
    loop: ControlLoop
    link: RobotLink


class PolicyNode(LifecycleNode):
    """See the module's docstring and docs/robot.md."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        self._born = time.monotonic()
        self.told_to_end: Callable[[], bool] = lambda: False  # see `process.run_node`
        self.exit_code: int | None = None
        self.parameters = read_parameters(self, PolicyParameters)
        self._time = NodeClock(self)
        self._reporter = Reporter(self, self._time)
        self._configured: Configured | None = None
        self._estopped = False  # also while there is no policy
        self._level = SafetyLevel.RUN
        self._active = False  # as the lifecycle has it
        self._next_look = self._next_report = self._next_dump = 0.0
        self._autostart = Autostart(
            self.parameters.autostart,
            self.parameters.activate_timeout,
            self.trigger_configure,
            self.trigger_activate,
            self.activation_problem,
        )
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._operator = Operator(self, self)
        if self.parameters.autostart == "none":
            self._log_next("configure")

    # ---- lifecycle

    @_guarded
    def on_configure(self, state: LifecycleState) -> Outcome:
        """Load the policy, refuse what does not fit, warm up, measure."""
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
        link = RobotLink(self, loop, self._time, self._carry_out)
        if given.realtime:
            self._reporter.granted, refused = realtime_profile(given.priority, given.cpus)
            for sentence in refused:
                self.get_logger().warning(sentence)
        self._configured = Configured(controller, loop, link)
        self._reporter.refusal = ""
        drive = "observation" if by_reading else "timer"
        text = describe(controller, latency, f"{drive}, noise {given.noise}")
        where = "none, a dry run" if given.dry_run else f"on {link.command_topic}"
        self.get_logger().info(f"configured: {text}, commands {where}")
        if not self._autostart.activates:
            self._log_next("activate")
        return Outcome.SUCCESS

    @_guarded
    def on_activate(self, state: LifecycleState) -> Outcome:
        """Permit commands, beginning at the measured pose."""
        problem = self.activation_problem()
        if not problem and self._configured is not None and not self.parameters.dry_run:
            self._look_for_others()
            problem = self.activation_problem()
            if not problem:
                patience = self._configured.controller.robot.activation.listener_timeout
                problem = self._configured.link.open(patience)
        if not problem and self.told_to_end():
            problem = "the process was told to end"
            self._configured.link.close()  # type: ignore[union-attr]
        if problem or self._configured is None:
            return self._refuse("activation", problem)
        _, loop, link = self._configured
        self._reporter.refusal = ""
        self._reporter.begin(loop)
        self._level, self._active = SafetyLevel.RUN, True
        self._autostart.cancel()
        if link.listeners_said:
            self.get_logger().warning(
                f"command.listener is not set: {', '.join(link.listeners_said)} counts as who takes"
                " the commands"
            )
        loop.activate()
        self.get_logger().info("active")
        return super().on_activate(state)

    @_guarded
    def on_deactivate(self, state: LifecycleState) -> Outcome:
        """Lead the robot to rest."""
        self._autostart.cancel()
        self._lead_to_rest()
        return super().on_deactivate(state)

    @_guarded
    def on_cleanup(self, state: LifecycleState) -> Outcome:
        """Forget the policy."""
        self._autostart.cancel()
        self._release()
        return Outcome.SUCCESS

    @_guarded
    def on_shutdown(self, state: LifecycleState) -> Outcome:
        """The last transition: the process ends."""
        self._autostart.cancel()
        self._lead_to_rest()
        self.exit_code = 0
        return Outcome.SUCCESS

    @_guarded
    def on_error(self, state: LifecycleState) -> Outcome:
        """An exception in a transition: rest first; the process ends with 1."""
        self._autostart.cancel()
        self._lead_to_rest()
        self._release()
        return Outcome.SUCCESS

    def _refuse(self, code: str, why: str) -> Outcome:
        self._reporter.refusal = f"refused [{code}]: {' '.join(why.split())}"
        self.get_logger().error(self._reporter.refusal)
        self._reporter.publish()
        return Outcome.FAILURE

    def _fail(self) -> Outcome:
        """A transition ended in an exception that nobody expected."""
        self.get_logger().fatal(traceback.format_exc())
        self.exit_code = 1
        return Outcome.ERROR

    def activation_problem(self) -> str:
        """What stands against commanding the robot now, as one sentence; empty: nothing."""
        if self._configured is None:
            return "it is not configured"
        loop, link = self._configured.loop, self._configured.link
        self._carry_out(lambda: loop.graph(link.look()))
        return loop.activation_problem()

    def _look_for_others(self) -> None:
        """Wait until others on the topics must have been seen; readings are served meanwhile."""
        assert self._configured is not None
        until = self._born + self.parameters.discovery_time
        while time.monotonic() < until and not self.told_to_end():
            self._configured.link.serve()
            self._operator.serve()
            time.sleep(REST_PAUSE)

    def _log_next(self, transition: str) -> None:
        name = self.get_fully_qualified_name()
        self.get_logger().info(f"next: ros2 lifecycle set {name} {transition}")

    # ---- control

    def _carry_out(self, call: Callable[[], Decision | None]) -> None:
        """Call the loop; publish what it decides, then report and record it."""
        if self._configured is None:
            return
        try:
            decision = call()
        except Exception:  # a bug, or a policy that fails: rest first, the recording says the more
            self.dump("exception")
            self._lead_to_rest()
            raise
        if decision is None:
            return
        loop, link = self._configured.loop, self._configured.link
        if decision.sent:
            link.publish(decision.command)
        self._reporter.miss(loop.take_missed())
        self._reporter.step(decision)
        loop.record(decision)
        if decision.level != self._level:
            self._on_level(decision)

    def _on_level(self, decision: Decision) -> None:
        """Another answer than before: a fault and its end are logged at once."""
        before, self._level = self._level, decision.level
        if max(before, self._level) < SafetyLevel.HOLD or self._configured is None:
            return
        if self._level < before:
            self.get_logger().warning(f"{self._level.name.lower()} after {before.name.lower()}")
            return
        why = self._configured.loop.explain(decision.faults)
        self._reporter.last_fault = f"{self._level.name.lower()}: {why}"
        self.get_logger().error(self._reporter.last_fault)
        self._reporter.publish()
        now = time.monotonic()
        if self._level == SafetyLevel.STOP or now >= self._next_dump:
            self._next_dump = now + DUMP_PAUSE
            self.dump(decision.faults[0].value)

    def estop(self) -> None:
        """Stop now and stay stopped, in any state."""
        self._estopped = True
        if self._configured is not None:
            self._carry_out(self._configured.loop.estop)

    def reset(self) -> str:
        """Release the stop; gives what stands against it, empty: nothing."""
        if self._configured is None:
            self._estopped = False
            return ""
        loop, link = self._configured.loop, self._configured.link
        self._carry_out(lambda: loop.graph(link.look()))
        problem = loop.reset()
        self._estopped = loop.estopped
        if not problem and loop.mode == Mode.ACTIVE:
            self._level = SafetyLevel.RUN
        return problem

    @property
    def commands(self) -> bool:
        """Is a robot commanded?"""
        return self._configured is not None and self._configured.loop.mode == Mode.ACTIVE

    def wait(self) -> float:
        """See `process.Running`."""
        if self._configured is None or self._time.simulated:
            return LONGEST_WAIT
        return self._configured.loop.wait()

    def tick(self) -> None:
        """See `process.Running`."""
        if self._configured is not None:
            self._carry_out(self._configured.loop.poll)
        wall = time.monotonic()  # simulated time may stand still
        if wall >= self._next_look:
            self._next_look = wall + LOOK
            self._look_around()
        if wall >= self._next_report:
            self._next_report = wall + REPORT
            self._reporter.publish()

    def _look_around(self) -> None:
        self._reporter.look()
        self._operator.look()
        if self._configured is not None:
            loop, link = self._configured.loop, self._configured.link
            link.repeat_first()
            self._carry_out(lambda: loop.graph(link.look()))
            if not self._time.is_served:
                gone = "nobody publishes /clock any more"
                self._carry_out(lambda: loop.trip(Fault.OBSERVATION_STALE, gone))
            if loop.clock_jumped:
                loop.clock_jumped = False
                self._time.restart()
                self._autostart.cancel()
                self.get_logger().warning(
                    "the robot's clock went back: activate by hand when the robot is ready"
                )
            if self._active and loop.mode == Mode.INACTIVE:
                self.trigger_deactivate()  # the loop has ended by itself, and says why
        code, why = self._autostart.look()
        if why:
            self._refuse("activation", why)
        if code is not None and self.exit_code is None:
            self.exit_code = code

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        problem = check_parameters(PolicyParameters, parameters)
        # read when configuring: a change that seems to work and does nothing could hurt someone
        if not problem and self._configured is not None:
            problem = f"{', '.join(parameter.name for parameter in parameters)}: clean up first"
        return SetParametersResult(successful=not problem, reason=problem)

    def dump(self, why: str) -> Dump | None:
        """Begin to write a recording; None where there is no policy."""
        if self._configured is None:
            return None
        dump = self._configured.controller.recorder.dump(self.parameters.recordings_folder, why)
        self._reporter.dumps.append(dump)
        return dump

    # ---- the way out

    def _lead_to_rest(self) -> None:
        """Command the robot to rest, and say how that ended. Readings and ~/estop are served."""
        if not self._active or self._configured is None:
            return
        self._active = False
        controller, loop, link = self._configured
        loop.shut_down()
        longest = controller.safety.rest.max_duration + REST_SLACK
        until, looked = time.monotonic() + longest, 0.0
        while loop.mode == Mode.RESTING:
            link.serve()
            self._operator.serve()
            decision = loop.poll()
            if decision is not None:  # no fault: not reported as one
                if decision.sent:
                    link.publish(decision.command)
                loop.record(decision)
            now = time.monotonic()
            if now - looked > LOOK:
                looked = now
                loop.graph(link.look())
            if now > until:  # simulated time may stand still
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
        if self._configured is not None:
            self._configured.link.destroy()
            self._configured.controller.recorder.wait(2.0)
            self._operator.look()  # who waits for a recording is answered
        self._reporter.forget()
        self._configured = None

    def close(self) -> None:
        """See `process.Running`."""
        self._lead_to_rest()
        self._release()


def main() -> int:
    """Run until told to stop."""
    return run_node(PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
