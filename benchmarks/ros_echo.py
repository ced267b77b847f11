"""The simplest node that replies to a JointState: the reference of `ros_loop.py`, started by it."""

from __future__ import annotations

import sys
from array import array

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray

from ros_nodes.conversions import COMMAND_QOS, STATE_QOS
from ros_nodes.process import MAX_WAIT, realtime_profile, run_node


class Echo(Node):
    """Publishes the received positions unchanged as a command."""

    def __init__(self) -> None:
        super().__init__("echo")
        self.exit_code: int | None = None
        self._message = Float64MultiArray()
        self._publisher = self.create_publisher(Float64MultiArray, "echo/commands", COMMAND_QOS)
        self.create_subscription(JointState, "echo/joint_states", self._answer, STATE_QOS)
        if self.declare_parameter("realtime", False).value:
            realtime_profile(80, [])

    def _answer(self, state: JointState) -> None:
        self._message.data = array("d", state.position)
        self._publisher.publish(self._message)

    def wait(self) -> float:
        return MAX_WAIT

    def tick(self) -> None: ...

    def close(self) -> None: ...


if __name__ == "__main__":
    sys.exit(run_node(Echo))
