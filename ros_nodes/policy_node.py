"""policy_node: an exported policy on a robot. `ros2 run dime_robot policy_node`.

Lifecycle: *configure* loads, checks and measures; *activate* permits the first command; every way
out (deactivate, error, SIGTERM, SIGINT) sends the robot to rest first. See docs/robot.md.
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.extras import require_extras

    require_extras(cpu=("onnxruntime",), ros=("rclpy",))

import os
import sys
import time
from pathlib import Path
from typing import TypeAlias

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from dime_robot.runtime.controller import Controller
from dime_robot.runtime.errors import InputError
from dime_robot.runtime.reasons import Reason, Rung
from dime_robot.runtime.safety import Decision
from ros_nodes.commissioning import commission, why_not_run
from ros_nodes.parameters import PolicyParameters, read_parameters
from ros_nodes.process import LONGEST_WAIT, NodeClock, realtime_profile, run_node
from ros_nodes.reporting import Reporter
from ros_nodes.robot_link import RobotLink, drives_by_observation

LOOK = 0.05  # [s] between two looks at who else is on the topics
REPORT = 1.0  # [s] between two diagnostics
DUMP_PAUSE = 5.0  # [s] between two recordings of troubles that do not latch
REFUSED, NO_ROBOT = 2, 3  # exit codes where autostart cannot do what it was asked for
Outcome: TypeAlias = TransitionCallbackReturn


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
        self._active = self._estopped = False
        self._rung = Rung.RUN
        self._next_step = self._next_look = self._next_report = self._next_dump = 0.0
        self._began = time.monotonic()
        self._autostart = self.parameters.autostart
        self.create_service(Trigger, "~/estop", self._on_estop)
        self.create_service(Trigger, "~/reset_estop", self._on_reset_estop)
        self.create_service(Trigger, "~/dump", self._on_dump)
        if self._autostart == "none":
            self._say_next("configure")

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> Outcome:
        """Load the policy, refuse what does not fit, warm up, measure."""
        try:
            given = self.parameters = read_parameters(self, PolicyParameters)
            controller, latency = commission(given)
            spec, robot = controller.policy.spec, controller.robot
            self._by_observation = drives_by_observation(given.drive, spec, robot)
        except InputError as error:
            return self._refuse(error.code, str(error))
        if given.realtime:
            self._reporter.granted, refused = realtime_profile(given.priority, given.cpus)
            for sentence in refused:
                self.get_logger().warning(sentence)
        self._controller = controller
        self._link = RobotLink(
            self, spec, robot, self._time, self._by_observation, self._on_message
        )
        self._reporter.refusal = ""
        self.get_logger().info(
            f"configured: policy {spec.name} {controller.policy.file.policy_digest[:12]}, robot"
            f" {robot.name}, {spec.rate:g} Hz by"
            f" {'observation' if self._by_observation else 'timer'}, noise {given.noise},"
            f" {controller.policy.provider} p99 {latency.cold_p99:.2f} ms of"
            f" {1e3 * spec.period:g} ms, commands on {self._link.command_topic}"
            + (" (dry run: none)" if given.dry_run else "")
        )
        if self._autostart != "activate":
            self._say_next("activate")
        return Outcome.SUCCESS

    def on_activate(self, state: LifecycleState) -> Outcome:
        """Permit commands, beginning at the measured pose."""
        problem = self._why_not_run()
        if problem:
            return self._refuse("activation", problem)
        assert self._controller is not None and self._link is not None
        assert self._link.state is not None
        now = self._time.now()
        self._controller.start(now, self._link.state)
        self._reporter.refusal = ""
        self._reporter.begin(self._controller)
        self._active, self._rung, self._next_step = True, Rung.RUN, now
        self.get_logger().info("active")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> Outcome:
        """Lead the robot to rest."""
        self._go_safe()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> Outcome:
        """Forget the policy."""
        self._release()
        return Outcome.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> Outcome:
        """The last transition: the process ends."""
        self._go_safe()
        self.exit_code = 0
        return Outcome.SUCCESS

    def on_error(self, state: LifecycleState) -> Outcome:
        """An exception in a transition: safe first, then unconfigured."""
        self._go_safe()
        self._release()
        return Outcome.SUCCESS

    def _refuse(self, code: str, why: str) -> Outcome:
        self._reporter.refusal = f"refused [{code}]: {' '.join(why.split())}"
        self.get_logger().error(self._reporter.refusal)
        self._reporter.publish()
        return Outcome.FAILURE

    def _why_not_run(self) -> str | None:
        assert self._controller is not None and self._link is not None
        if self._estopped:
            return "the emergency stop is set: call ~/reset_estop first"
        dry = self.parameters.dry_run
        return why_not_run(self._link, self._controller, self._time.simulated, dry)

    def _say_next(self, transition: str) -> None:
        name = f"{self.get_namespace().rstrip('/')}/{self.get_name()}"
        self.get_logger().info(f"next: ros2 lifecycle set {name} {transition}")

    # ---- control

    def _on_message(self) -> None:
        if self._active and self._by_observation:
            self._step()

    def _step(self) -> None:
        """From the newest state to a published command."""
        assert self._controller is not None and self._link is not None
        link, controller, now = self._link, self._controller, self._time.now()
        problems = link.problems()
        try:
            decision = controller.step(now, None if link.defect else link.state, problems)
        except Exception:  # a bug: `close` sends the safe command, the recording says the rest
            self._dump("exception")
            raise
        if not self.parameters.dry_run:
            link.publish(decision.command)
        self._reporter.step(decision, link.freshness)
        controller.record(decision)
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
            self._dump(decision.reasons[0].value)

    def _trip(self, reason: Reason) -> None:
        """Stop now and stay stopped."""
        assert self._controller is not None
        if self._active and not self._controller.safety.latched:
            self._controller.safety.trip(reason)
            self._step()

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
            self._step()
            if not self._by_observation:  # absolute deadlines; those already gone are skipped
                self._next_step = due + period * max(1, 1 + int((now - due) / period))
        wall = time.monotonic()  # simulated time may stand still
        if wall >= self._next_look:
            self._next_look = wall + LOOK
            self._look_around()
        if wall >= self._next_report:
            self._next_report = wall + REPORT
            self._reporter.publish()

    def _look_around(self) -> None:
        self._reporter.look()
        if self._autostart != "none":
            self._start_by_itself()
        elif self._active and self._link is not None and not self.parameters.dry_run:
            if not self._link.listeners():
                self._trip(Reason.LISTENER_LOST)
            elif self._link.rivals() > 0:
                self._trip(Reason.COMMAND_CONFLICT)

    def _start_by_itself(self) -> None:
        """The transitions that `autostart` names."""
        if self._controller is None:
            if self.trigger_configure() != Outcome.SUCCESS:
                self.exit_code = REFUSED
            elif self._autostart == "configure":
                self._autostart = "none"
            return
        problem = self._why_not_run()
        if problem is None:
            self._autostart = "none"
            self.trigger_activate()
        elif time.monotonic() - self._began > self.parameters.activate_timeout:
            self._refuse("activation", problem)
            self.exit_code = NO_ROBOT

    # ---- the operator

    def _on_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._estopped = True
        self._trip(Reason.ESTOP)
        response.success, response.message = True, "stopped; ~/reset_estop re-arms"
        return response

    def _on_reset_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._estopped = False
        response.success, response.message = True, "reset"
        if not self._active:
            return response
        assert self._controller is not None and self._link is not None
        if not self._controller.safety.latched:
            response.message = "was not stopped"
        elif problem := self._why_not_run():
            response.success, response.message = False, f"still stopped: {problem}"
        else:
            assert self._link.state is not None
            self._controller.start(self._time.now(), self._link.state)
            self._rung = Rung.RUN
            response.message = "armed"
            self.get_logger().warning("armed again by the operator")
        return response

    def _on_dump(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = None if self._controller is None else self._dump("request")
        response.success = path is not None
        response.message = str(path) if path is not None else "nothing to record, or busy"
        return response

    def _dump(self, why: str) -> Path | None:
        assert self._controller is not None
        home = os.environ.get("ROS_HOME", "~/.ros")
        folder = Path(self.parameters.recordings or Path(home) / "dime_robot").expanduser()
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
        if not self.parameters.dry_run:
            self._link.lead_to_rest(self._controller.safety)
            self.get_logger().info("inactive, the safe command is sent")

    def _release(self) -> None:
        if self._link is not None:
            self._link.destroy()
        if self._controller is not None:
            self._controller.recorder.wait(2.0)
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
