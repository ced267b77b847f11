"""Reporter: publishes policy_node's measurements and decisions on /diagnostics and ~/latency."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, String

from dime_robot.runtime.control.control_loop import ControlLoop
from dime_robot.runtime.control.faults import Fault, SafetyLevel
from dime_robot.runtime.control.flight_recorder import Dump
from dime_robot.runtime.control.phases import commander_of
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.telemetry.latency import SAMPLE_LABEL, LatencyRecorder, LatencySample
from ros_nodes import diagnostics
from ros_nodes.conversions import PHASE_QOS
from ros_nodes.other_commands import OtherCommands
from ros_nodes.process import NodeClock


class _Activation:
    """The counts of one activation."""

    def __init__(self, loop: ControlLoop) -> None:
        self.loop = loop
        self.recorder = LatencyRecorder(loop.controller.policy.spec.rate)
        self.decision: Decision | None = None  # the last one; None: nothing is commanded
        self.commander = ""  # phase, and policy of several, as they were reported last
        self.levels: Counter[SafetyLevel] = Counter()  # steps since the last report
        self.faults: Counter[Fault] = Counter()  # the same
        self.published_at = 0.0  # the last command [s]; 0: none yet
        self.reported_steps = self.reported_misses = 0


class Reporter:
    """Counts, times and publishes. Samples are published only while there is a subscriber."""

    def __init__(self, node: Node, clock: NodeClock) -> None:
        self.granted = "off"  # of the real-time profile
        self.refusal = ""  # why the last transition was refused
        self.last_fault = "none"
        self.describe_joystick: Callable[[], str] = lambda: ""  # empty: there is none
        self.dumps: deque[Dump] = deque(maxlen=3)  # the newest recordings
        self.others: OtherCommands | None = None  # in a dry run, until the policy is released
        self._node, self._clock = node, clock
        self._activation: _Activation | None = None  # the newest, until the policy is released
        self._has_subscribers = False
        self._diagnostics = node.create_publisher(DiagnosticArray, diagnostics.TOPIC, 10)
        self._samples = node.create_publisher(Float64MultiArray, "~/latency", 100)
        self._phases = node.create_publisher(String, "~/phase", PHASE_QOS)
        self._message = Float64MultiArray()
        self._message.layout.dim = [
            MultiArrayDimension(label=SAMPLE_LABEL, size=len(LatencySample._fields))
        ]

    def begin(self, loop: ControlLoop) -> None:
        """Reset the counts: a policy is activated."""
        self._activation = _Activation(loop)

    def end(self) -> None:
        """Report that no more commands are sent."""
        if self._activation is not None:
            self._activation.decision = None

    def release(self) -> None:
        """Drop all data of a policy that is unloaded."""
        self.describe_joystick = lambda: ""
        self._activation = self.others = None

    def enter(self, loop: ControlLoop) -> str:
        """Publish phase and policy where they have changed; return the change, empty: none."""
        active, controller = self._activation, loop.controller
        named = controller.acting if len(controller.policies) > 1 else ""
        commander = commander_of(loop.phase, named)
        if active is None or commander == active.commander:
            return ""
        active.commander = commander
        self._phases.publish(String(data=commander))
        if not controller.phases.exists and not named:
            return ""
        return f"phase {loop.phase.value}" + (f", policy {named}" if named else "")

    def miss(self, count: int) -> None:
        """Count deadlines without a step."""
        if self._activation is not None:
            self._activation.recorder.misses += count

    def step(self, decision: Decision) -> str:
        """Count and time a command that was published just now; return as `enter`."""
        if (active := self._activation) is None:
            return ""
        watchdog, began = active.loop.watchdog, active.loop.began
        active.decision = decision
        active.levels[decision.level] += 1
        active.faults.update(decision.faults)
        now, period = self._clock.now(), active.loop.controller.policy.spec.period
        sample = LatencySample(
            time=now,
            age_by_stamp=watchdog.age_by_stamp(self._clock.robot_now()),
            age_by_receipt=watchdog.age_by_receipt(now),
            inference=active.loop.controller.inference,
            end_to_end=now - began,
            period=now - active.published_at if active.published_at else period,
            missed=float(now - began > period),
        )
        active.published_at = now
        active.recorder.add(sample)
        change = self.enter(active.loop)  # before the first sample of that phase, see PhaseLog
        if self._has_subscribers:
            self._message.data = array("d", sample)
            self._samples.publish(self._message)
        return change

    def poll(self) -> None:
        """Check whether the samples have a subscriber."""
        self._has_subscribers = self._samples.get_subscription_count() > 0

    def publish(self) -> None:
        """Publish one report."""
        node = self._node.get_fully_qualified_name()
        names = [diagnostics.entry_name(node, what) for what in diagnostics.ENTRIES]
        if self._activation is None:
            level = DiagnosticStatus.ERROR if self.refusal else DiagnosticStatus.OK
            message = self.refusal or "not active"
            entries = [diagnostics.status(names[0], "", level, message, self._joystick())]
        else:
            entries = self._entries(names, self._activation)
            if self.others is not None:
                entries.append(self.others.entry(diagnostics.entry_name(node, diagnostics.SHADOW)))
        stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics.array(stamp, *entries))

    def _entries(self, names: list[str], active: _Activation) -> list[DiagnosticStatus]:
        policy, robot = active.loop.controller.policy, active.loop.controller.robot
        recorder, decision, period = active.recorder, active.decision, policy.spec.period
        steps = recorder.steps - active.reported_steps
        misses = recorder.misses - active.reported_misses
        active.reported_steps, active.reported_misses = recorder.steps, recorder.misses
        level, message = diagnostics.control_level(decision, active.levels, active.faults)
        percentiles = recorder.percentiles()
        latency, summary = diagnostics.latency_level(percentiles, steps, misses, period)
        inputs = {}
        if decision is None:
            latency, summary = DiagnosticStatus.OK, "not active"
            if self.refusal:
                level, message = DiagnosticStatus.ERROR, self.refusal
        else:
            inputs = {
                "why": active.loop.explain(decision.faults) or "nothing is wrong",
                "state rate": active.loop.watchdog.describe_rate(),
                "listeners": ", ".join(active.loop.view.listeners),
            }
        control = {
            diagnostics.RESPONSE: "none" if decision is None else decision.level.name.lower(),
            "last fault": self.last_fault,
            "last recording": self._last_recording(),
            **inputs,
            **self._joystick(),
            **{f"steps {level.name.lower()}": active.levels[level] for level in SafetyLevel},
            **{f"steps with {fault.value}": count for fault, count in active.faults.items()},
            "policy": f"{policy.spec.name} {policy.file.policy_digest[:12]}",
            "phase": active.loop.phase.value,
            "selected": active.loop.controller.acting,
            "rate [Hz]": policy.spec.rate,
            "noise": policy.noise.mode,
            "provider": policy.provider,
            "real-time": self.granted,
        }
        active.levels.clear()
        active.faults.clear()
        times = diagnostics.latency_values(recorder, percentiles, period)
        if active.loop.between is not None:
            times["interpolation [ms]"] = 1e3 * robot.command.interpolated.delay(policy.spec)
            times["missed between steps"] = active.loop.between.missed
        return [
            diagnostics.status(names[0], robot.name, level, message, control),
            diagnostics.status(names[1], robot.name, latency, summary, times),
        ]

    def _joystick(self) -> dict[str, str]:
        text = self.describe_joystick()
        return {"joystick": text} if text else {}

    def _last_recording(self) -> str:
        done = [dump for dump in self.dumps if dump.done]
        if not done:
            return "none"
        return f"failed: {done[-1].error}" if done[-1].error else str(done[-1].path)
