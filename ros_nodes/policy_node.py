"""policy_node: an exported policy on a robot. `ros2 run dime_robot policy_node`.

Lifecycle: *configure* loads, checks and measures; *activate* permits the first command; every way
out (deactivate, error, SIGTERM, SIGINT) sends the robot to rest first. See docs/robot.md.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.extras import require_extras

    require_extras(cpu=("onnxruntime",), ros=("rclpy",))

import sys
import time
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeAlias

from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from dime_robot.runtime.controller import Controller
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.reasons import Reason, Rung
from dime_robot.runtime.safety import Decision
from ros_nodes.autostart import Autostart
from ros_nodes.commissioning import commission, describe, why_not_run
from ros_nodes.operator_services import Operator
from ros_nodes.parameters import PolicyParameters, read_parameters
from ros_nodes.process import LONGEST_WAIT, NodeClock, realtime_profile, run_node
from ros_nodes.reporting import Reporter
from ros_nodes.robot_link import RobotLink, drives_by_observation

LOOK = 0.05  # [s] between two looks at who else is on the topics
REPORT = 1.0  # [s] between two diagnostics
DUMP_PAUSE = 5.0  # [s] between two recordings of troubles that do not latch
SIMULATION_PATIENCE = 2.0  # [s] of the wall clock without a step in simulated time
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


class PolicyNode(LifecycleNode):
    """See the module's docstring and docs/robot.md."""

    def __init__(self) -> None:
        super().__init__("policy_node")
        self.exit_code: int | None = None
        self.parameters = read_parameters(self, PolicyParameters)
        self._time = NodeClock(self)
        self._reporter = Reporter(self, self._time)
        self._controller: Controller | None = None
        self._link: RobotLink | None = None
        self._by_observation = True
        self._active = False
        self._rung = Rung.RUN
        self._next_step = self._next_look = self._next_report = self._next_dump = 0.0
        self._stepped = 0.0  # when the last step was made, by the wall [s]
        self._autostart = Autostart(
            self.parameters.autostart,
            self.parameters.activate_timeout,
            self.trigger_configure,
            self.trigger_activate,
            self.why_not_run,
        )
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._operator = Operator(self, self)
        if self.parameters.autostart == "none":
            self._say_next("configure")

    # ---- lifecycle

    @_guarded
    def on_configure(self, state: LifecycleState) -> Outcome:
        """Load the policy, refuse what does not fit, warm up, measure."""
        given = self.parameters = read_parameters(self, PolicyParameters)
        controller, latency = commission(given)
        spec, robot = controller.policy.spec, controller.robot
        self._by_observation = drives_by_observation(given.drive, spec, robot)
        shared = (self, spec, robot, self._time, self._by_observation)
        self._link = RobotLink(*shared, self._on_message, publishes=not given.dry_run)
        if given.realtime:
            self._reporter.granted, refused = realtime_profile(given.priority, given.cpus)
            for sentence in refused:
                self.get_logger().warning(sentence)
        self._controller = controller
        self._reporter.refusal = ""
        drive = "observation" if self._by_observation else "timer"
        text = describe(controller, latency, f"{drive}, noise {given.noise}")
        where = "none, a dry run" if given.dry_run else f"on {self._link.command_topic}"
        self.get_logger().info(f"configured: {text}, commands {where}")
        if not self._autostart.activates:
            self._say_next("activate")
        return Outcome.SUCCESS

    @_guarded
    def on_activate(self, state: LifecycleState) -> Outcome:
        """Permit commands, beginning at the measured pose."""
        problem = self.why_not_run()
        if problem:
            return self._refuse("activation", problem)
        assert self._controller is not None and self._link is not None
        assert self._link.state is not None
        now = self._time.now()
        self._controller.start(now, self._link.state)
        self._reporter.refusal = ""
        self._reporter.begin(self._controller)
        self._active, self._rung, self._next_step = True, Rung.RUN, now
        self._stepped = time.monotonic()
        self._autostart.cancel()
        self.get_logger().info("active")
        return super().on_activate(state)

    @_guarded
    def on_deactivate(self, state: LifecycleState) -> Outcome:
        """Lead the robot to rest."""
        self._autostart.cancel()
        self._go_safe()
        assert self._link is not None
        self._link.restart()  # the next activation needs readings of its own
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> Outcome:
        """Forget the policy."""
        self._autostart.cancel()
        self._release()
        return Outcome.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> Outcome:
        """The last transition: the process ends."""
        self._autostart.cancel()
        self._go_safe()
        self.exit_code = 0
        return Outcome.SUCCESS

    def on_error(self, state: LifecycleState) -> Outcome:
        """An exception in a transition: safe first; the process ends with 1."""
        self._autostart.cancel()
        self._go_safe()
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

    def why_not_run(self) -> str | None:
        """What stands against commanding the robot now, as one sentence."""
        if self._controller is None or self._link is None:
            return "it is not configured"
        if self._operator.estopped:
            return "the emergency stop is set: call ~/reset_estop first"
        dry = self.parameters.dry_run
        return why_not_run(self._link, self._controller, self._time.simulated, dry)

    def _say_next(self, transition: str) -> None:
        name = f"{self.get_namespace().rstrip('/')}/{self.get_name()}"
        self.get_logger().info(f"next: ros2 lifecycle set {name} {transition}")

    # ---- control

    def _on_message(self) -> None:
        if self._active and self._by_observation:
            assert self._link is not None
            self._step(self._link.received)

    def _step(self, began: float) -> None:
        """From the newest state to a published command; `began`: when it could be made [s]."""
        assert self._controller is not None and self._link is not None
        link, controller, now = self._link, self._controller, self._time.now()
        problems = link.problems()
        try:
            decision = controller.step(now, None if link.defect else link.state, problems)
        except Exception:  # a bug: safe first, the recording says the rest
            self._go_safe()
            self.dump("exception")
            raise
        link.publish(decision.command)
        self._reporter.step(decision, link.freshness, began)
        controller.record(decision)
        self._stepped = time.monotonic()
        if self._by_observation:  # how long without a reading until we step by ourselves
            alive = link.freshness.age_by_receipt(now) < controller.policy.spec.period
            patience = controller.robot.state.max_age if alive else controller.policy.spec.period
            self._next_step = now + patience
        if decision.rung != self._rung:
            self._on_rung(decision)

    def _on_rung(self, decision: Decision) -> None:
        """Another answer than before: trouble and its end are said at once."""
        before, self._rung = self._rung, decision.rung
        if max(before, self._rung) < Rung.HOLD:
            return
        why = ", ".join(reason.value for reason in decision.reasons)
        if self._rung < before:
            self.get_logger().warning(f"{self._rung.name.lower()} after {before.name.lower()}")
            return
        self._reporter.last_fault = f"{self._rung.name.lower()}: {why}"
        self.get_logger().error(self._reporter.last_fault)
        self._reporter.publish()
        now = time.monotonic()
        if self._rung == Rung.STOP or now >= self._next_dump:
            self._next_dump = now + DUMP_PAUSE
            assert self._controller is not None
            self.dump(self._controller.safety.cause[0].value)

    def trip(self, reason: Reason) -> None:
        """Stop now and stay stopped."""
        if self._active:
            assert self._controller is not None
            news = reason not in self._controller.safety.cause
            self._controller.safety.trip(reason)
            if news or self._rung < Rung.STOP:
                self._step(self._time.now())

    def wait(self) -> float:
        """See `process.Running`."""
        if not self._active or self._time.simulated:
            return LONGEST_WAIT
        return self._next_step - self._time.now()

    def tick(self) -> None:
        """See `process.Running`."""
        now = self._time.now()
        if self._active and now >= self._next_step:
            assert self._controller is not None
            due, period = self._next_step, self._controller.policy.spec.period
            self._step(due)
            if not self._by_observation:  # absolute deadlines; those already gone are missed
                gone = int((self._time.now() - due) / period)
                self._reporter.miss(gone)
                self._next_step = due + period * (1 + gone)
        wall = time.monotonic()  # simulated time may stand still
        if wall >= self._next_look:
            self._next_look = wall + LOOK
            self._look_around()
        if wall >= self._next_report:
            self._next_report = wall + REPORT
            self._reporter.publish()

    def _look_around(self) -> None:
        self._reporter.look()
        waited = time.monotonic() - self._stepped
        if self._active and self._time.simulated and waited > SIMULATION_PATIENCE:
            self.trip(Reason.OBSERVATION_STALE)  # the simulation's clock has died
        code, why = self._autostart.look()
        if why:
            self._refuse("activation", why)
        if code is not None and self.exit_code is None:
            self.exit_code = code
        if self._active and self._link is not None and not self.parameters.dry_run:
            if not self._link.listeners():
                self.trip(Reason.LISTENER_LOST)
            elif self._link.rivals() > 0:
                self.trip(Reason.COMMAND_CONFLICT)

    @property
    def latched(self) -> bool:
        """Is it active and stopped?"""
        return self._active and self._controller is not None and self._controller.safety.latched

    def _on_set_parameters(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        # read when configuring: a change that seems to work and does nothing could hurt someone
        if self._controller is None:
            return SetParametersResult(successful=True)
        names = ", ".join(parameter.name for parameter in parameters)
        return SetParametersResult(successful=False, reason=f"{names}: clean up first")

    def rearm(self) -> None:
        """Go on from where the robot is now, after a stop."""
        assert self._controller is not None and self._link is not None
        assert self._link.state is not None
        self._controller.start(self._time.now(), self._link.state)
        self._rung = Rung.RUN

    def dump(self, why: str) -> Path | None:
        """Begin to write a recording; None where there is none to write."""
        if self._controller is None:
            return None
        folder = self.parameters.recordings_folder
        try:
            path = self._controller.recorder.dump(folder, why)
        except OSError as error:
            self.get_logger().error(f"flight recorder: {folder}: {error.strerror}")
            return None
        if path is not None:
            self.get_logger().info(f"flight recorder: {path}")
        return path

    # ---- the way out

    def _go_safe(self) -> None:
        """The safe command, while it can still be sent."""
        if not self._active:
            return
        assert self._controller is not None and self._link is not None
        self._active = False
        self._reporter.end()
        if self._link.lead_to_rest(self._controller.safety):
            self.get_logger().info("inactive, the safe command is sent")
        else:
            self.get_logger().warning("inactive, and not yet at the safe position")

    def _release(self) -> None:
        if self._link is not None:
            self._link.destroy()
        if self._controller is not None:
            self._controller.recorder.wait(2.0)
        self._reporter.forget()
        self._link = self._controller = None

    def close(self) -> None:
        """See `process.Running`."""
        self._go_safe()
        self._release()


def main() -> int:
    """Run until told to stop."""
    return run_node(PolicyNode)


if __name__ == "__main__":
    sys.exit(main())
