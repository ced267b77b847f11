"""Reporter: what policy_node measures and decides, on /diagnostics and ~/latency."""

from __future__ import annotations

from array import array
from collections import Counter

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, MultiArrayDimension

from dime_robot.runtime.controller import Controller
from dime_robot.runtime.freshness import Freshness
from dime_robot.runtime.latency import SAMPLE_LABEL, LatencyRecorder, LatencySample
from dime_robot.runtime.reasons import Reason, Rung
from dime_robot.runtime.safety import Decision
from ros_nodes import diagnostics
from ros_nodes.process import NodeClock


class Reporter:
    """Counts, times and publishes. Costs nothing on ~/latency while nobody listens there."""

    def __init__(self, node: Node, clock: NodeClock) -> None:
        self.granted = "off"  # of the real-time profile
        self.refusal = ""  # why the last transition was refused
        self.last_fault = "none"
        self._node, self._clock = node, clock
        self._controller: Controller | None = None
        self._recorder: LatencyRecorder | None = None
        self._decision: Decision | None = None
        self._rungs: Counter[Rung] = Counter()  # steps since the last report
        self._reasons: Counter[Reason] = Counter()
        self._reported_steps = self._reported_misses = 0
        self._published_at = 0.0
        self._listened = False
        self._diagnostics = node.create_publisher(DiagnosticArray, diagnostics.TOPIC, 10)
        self._samples = node.create_publisher(Float64MultiArray, "~/latency", 100)
        self._message = Float64MultiArray()
        self._message.layout.dim = [
            MultiArrayDimension(label=SAMPLE_LABEL, size=len(LatencySample._fields))
        ]

    def begin(self, controller: Controller) -> None:
        """A policy is about to run."""
        self._controller = controller
        self._recorder = LatencyRecorder(controller.policy.spec.rate)
        self._reported_steps = self._reported_misses = 0
        self._published_at = 0.0
        self._rungs.clear()
        self._reasons.clear()

    def end(self) -> None:
        """The policy runs no more."""
        self._decision = None

    def forget(self) -> None:
        """The policy is gone."""
        self._controller = self._recorder = self._decision = None

    def miss(self, count: int) -> None:
        """Deadlines went by without a step."""
        if self._recorder is not None:
            self._recorder.misses += count

    def step(self, decision: Decision, freshness: Freshness, began: float) -> None:
        """A command was published just now; `began`: when it could first be made [s]."""
        assert self._controller is not None and self._recorder is not None
        self._decision = decision
        self._rungs[decision.rung] += 1
        self._reasons.update(decision.reasons)
        now, period = self._clock.now(), self._controller.policy.spec.period
        sample = LatencySample(
            time=now,
            age_by_stamp=freshness.age_by_stamp(self._clock.robot_now()),
            age_by_receipt=freshness.age_by_receipt(now),
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
        name, controller = self._node.get_fully_qualified_name(), self._controller
        recorder = self._recorder
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
        level, message = diagnostics.control_level(self._decision, self._rungs, self._reasons)
        if self._decision is None and self.refusal:
            level, message = DiagnosticStatus.ERROR, self.refusal
        control = {
            "answer": "none" if self._decision is None else self._decision.rung.name.lower(),
            "last fault": self.last_fault,
            **{f"steps {rung.name.lower()}": self._rungs[rung] for rung in Rung},
            **{f"steps with {reason.value}": count for reason, count in self._reasons.items()},
            "policy": f"{policy.spec.name} {policy.file.policy_digest[:12]}",
            "rate [Hz]": policy.spec.rate,
            "noise": policy.noise.mode,
            "provider": policy.provider,
            "real-time": self.granted,
        }
        self._rungs.clear()
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
