"""Reporter: what policy_node measures and decides, on /diagnostics and ~/latency."""

from __future__ import annotations

from array import array
from collections import Counter, deque

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from dime_robot.runtime.control.control_loop import ControlLoop
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import Dump
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.telemetry.latency import SAMPLE_LABEL, LatencyRecorder, LatencySample
from ros_nodes import diagnostics
from ros_nodes.process import NodeClock


class Reporter:
    """Counts, times and publishes. Costs nothing on ~/latency while nobody listens there."""

    def __init__(self, node: Node, clock: NodeClock) -> None:
        self.granted = "off"  # of the real-time profile
        self.refusal = ""  # why the last transition was refused
        self.last_fault = "none"
        self.dumps: deque[Dump] = deque(maxlen=3)  # the newest recordings
        self._loop: ControlLoop | None = None
        self._node, self._clock = node, clock
        self._controller: Controller | None = None
        self._recorder: LatencyRecorder | None = None
        self._decision: Decision | None = None
        self._levels: Counter[SafetyLevel] = Counter()  # steps since the last report
        self._reasons: Counter[Fault] = Counter()
        self._reported_steps = self._reported_misses = 0
        self._published_at = 0.0
        self._listened = False
        self._diagnostics = node.create_publisher(DiagnosticArray, diagnostics.TOPIC, 10)
        self._samples = node.create_publisher(Float64MultiArray, "~/latency", 100)
        self._message = Float64MultiArray()
        self._message.layout.dim = [
            MultiArrayDimension(label=SAMPLE_LABEL, size=len(LatencySample._fields))
        ]

    def begin(self, loop: ControlLoop) -> None:
        """A policy is about to run."""
        self._loop, self._controller = loop, loop.controller
        controller = loop.controller
        self._recorder = LatencyRecorder(controller.policy.spec.rate)
        self._reported_steps = self._reported_misses = 0
        self._published_at = 0.0
        self._levels.clear()
        self._reasons.clear()

    def end(self) -> None:
        """The policy runs no more."""
        self._decision = None

    def forget(self) -> None:
        """The policy is gone."""
        self._loop = self._controller = self._recorder = self._decision = None

    def miss(self, count: int) -> None:
        """Deadlines went by without a step."""
        if self._recorder is not None:
            self._recorder.misses += count

    def step(self, decision: Decision) -> None:
        """Take note of a command that was published just now."""
        if self._loop is None or self._controller is None or self._recorder is None:
            return
        watchdog, began = self._loop.watchdog, self._loop.began
        self._decision = decision
        self._levels[decision.level] += 1
        self._reasons.update(decision.faults)
        now, period = self._clock.now(), self._controller.policy.spec.period
        sample = LatencySample(
            time=now,
            age_by_stamp=watchdog.age_by_stamp(self._clock.robot_now()),
            age_by_receipt=watchdog.age_by_receipt(now),
            inference=self._controller.inference,
            end_to_end=now - began,
            period=now - self._published_at if self._published_at else period,
            missed=float(now - began > period),
        )
        self._published_at = now
        self._recorder.add(sample)
        if self._listened:
            self._message.data = array("d", sample)
            self._samples.publish(self._message)

    def look(self) -> None:
        """See who listens."""
        self._listened = self._samples.get_subscription_count() > 0

    def publish(self) -> None:
        """One report."""
        controller, recorder = self._controller, self._recorder
        name = self._node.get_fully_qualified_name()
        if controller is None or recorder is None:
            level = DiagnosticStatus.ERROR if self.refusal else DiagnosticStatus.OK
            entries = [
                diagnostics.status(f"{name}: control", "", level, self.refusal or "not active", {})
            ]
        else:
            entries = self._entries(name, controller, recorder)
        stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.array(stamp, *entries))

    def _entries(
        self, name: str, controller: Controller, recorder: LatencyRecorder
    ) -> list[DiagnosticStatus]:
        policy, robot = controller.policy, controller.robot
        steps, misses = (
            recorder.steps - self._reported_steps,
            recorder.misses - self._reported_misses,
        )
        self._reported_steps, self._reported_misses = recorder.steps, recorder.misses
        level, message = diagnostics.control_level(self._decision, self._levels, self._reasons)
        if self._decision is None and self.refusal:
            level, message = DiagnosticStatus.ERROR, self.refusal
        control = {
            "answer": "none" if self._decision is None else self._decision.level.name.lower(),
            "last fault": self.last_fault,
            "last recording": self._last_recording(),
            **self._state(),
            **{f"steps {level.name.lower()}": self._levels[level] for level in SafetyLevel},
            **{f"steps with {reason.value}": count for reason, count in self._reasons.items()},
            "policy": f"{policy.spec.name} {policy.file.policy_digest[:12]}",
            "rate [Hz]": policy.spec.rate,
            "noise": policy.noise.mode,
            "provider": policy.provider,
            "real-time": self.granted,
        }
        self._levels.clear()
        self._reasons.clear()
        period, percentiles = policy.spec.period, recorder.percentiles()
        late, summary = diagnostics.latency_level(percentiles, steps, misses, period)
        if self._decision is None:
            late, summary = DiagnosticStatus.OK, "not active"
        return [
            diagnostics.status(f"{name}: control", robot.name, level, message, control),
            diagnostics.status(
                f"{name}: latency",
                robot.name,
                late,
                summary,
                diagnostics.latency_values(recorder, percentiles, period),
            ),
        ]

    def _state(self) -> dict[str, object]:
        """What the control loop knows of its inputs."""
        if self._loop is None or self._decision is None:
            return {}
        return {
            "why": self._loop.explain(self._decision.faults) or "nothing is wrong",
            "state rate": self._loop.watchdog.describe_rate(),
            "listeners": ", ".join(self._loop.view.listeners),
        }

    def _last_recording(self) -> str:
        done = [dump for dump in self.dumps if dump.done]
        if not done:
            return "none"
        return f"failed: {done[-1].error}" if done[-1].error else str(done[-1].path)
