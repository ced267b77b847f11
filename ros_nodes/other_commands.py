"""OtherCommands: in a dry run, what another controller commands beside this node.

The commands are taken by a hidden node without an executor, so that this node does not count as
somebody who takes the other's commands.
"""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node

from dime_robot.runtime.contract.policy_spec import PolicySpec
from dime_robot.runtime.control.control_loop import ControlLoop, Mode
from dime_robot.runtime.control.joint_mapping import JointMapping
from dime_robot.runtime.control.message_values import command_values
from dime_robot.runtime.control.safety_filter import Decision
from dime_robot.runtime.control.shadow import CommandComparison, units_of
from ros_nodes import diagnostics
from ros_nodes.conversions import command_type
from ros_nodes.topic_watch import TopicWatch


class OtherCommands:
    """Compares the commands of a dry run with those on the command topic, and records them.

    Args:
        owner: the node of the dry run.
        loop: its control loop.
        mapping: of its joints.
        topic: of the commands, fully resolved.
    """

    def __init__(self, owner: Node, loop: ControlLoop, mapping: JointMapping, topic: str) -> None:
        self._loop, self._mapping = loop, mapping
        self._spec: PolicySpec = loop.controller.spec
        self._comparison = CommandComparison(self._spec.n_act)
        self._unused = 0  # commands since the last report that are not for the policy's joints
        self._watch = TopicWatch(owner, command_type(loop.controller.robot.command), topic)
        self._watch.keep_open(True)
        loop.controller.recorder.expect_other_commands()

    def poll(self) -> None:
        """Take the commands that have come; call it before each step."""
        for _, message in self._watch.take():
            if self._loop.mode != Mode.ACTIVE:
                continue
            values = command_values(message, self._mapping)
            if values is None:
                self._unused += 1
                continue
            command = self._mapping.commanded(values).value
            self._comparison.other(command)
            self._loop.controller.recorder.other_command(command)

    def step(self, decision: Decision) -> None:
        """Take a step of the dry run."""
        self._comparison.step(decision)

    def entry(self, name: str) -> DiagnosticStatus:
        """Return the entry on /diagnostics about the steps since the last report.

        Args:
            name: of the entry.
        """
        found, joints, units = (
            self._comparison.take(),
            self._spec.action_joints,
            units_of(self._spec),
        )
        level, message = DiagnosticStatus.OK, f"no command of another node on {self._watch.topic}"
        if self._unused:
            level = DiagnosticStatus.WARN
            message = f"{self._unused} commands on {self._watch.topic} are not for these joints"
        values: dict[str, object] = {"steps compared": found.steps, "unused": self._unused}
        self._unused = 0
        if found.steps:
            worst = int(found.max.argmax())
            message = (
                f"largest difference {found.max[worst]:.3g} {units[worst]} of {joints[worst]} over"
                f" {found.steps} steps"
            )
            for i, joint in enumerate(joints):
                values[f"{joint} mean [{units[i]}]"] = float(found.mean[i])
                values[f"{joint} max [{units[i]}]"] = float(found.max[i])
        robot = self._loop.controller.robot.name
        return diagnostics.status(name, robot, level, message, values)

    def close(self) -> None:
        """End the subscription."""
        self._watch.close()
