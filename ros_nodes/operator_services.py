"""What an operator can call on policy_node: ~/estop, ~/reset_estop, ~/dump."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from rclpy.node import Node
from std_srvs.srv import Trigger

from dime_robot.runtime.reasons import Reason


class Operated(Protocol):
    """What the services need of their node."""

    @property
    def latched(self) -> bool:
        """Is it active and stopped?"""

    def trip(self, reason: Reason) -> None:
        """Stop now and stay stopped, where active."""

    def rearm(self) -> None:
        """Go on from where the robot is now."""

    def why_not_run(self) -> str | None:
        """What stands against it."""

    def dump(self, why: str) -> Path | None:
        """Write a recording."""


class Operator:
    """The services, and whether the emergency stop is set: in any state of the lifecycle."""

    def __init__(self, owner: Node, node: Operated) -> None:
        self.estopped = False
        self._node = node
        owner.create_service(Trigger, "~/estop", self._on_estop)
        owner.create_service(Trigger, "~/reset_estop", self._on_reset)
        owner.create_service(Trigger, "~/dump", self._on_dump)

    def _on_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.estopped = True
        self._node.trip(Reason.ESTOP)
        response.success, response.message = True, "stopped; ~/reset_estop re-arms"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        was, self.estopped = self.estopped, False
        if not self._node.latched:
            response.success, response.message = True, "reset"
            return response
        problem = self._node.why_not_run()
        if problem is None:
            self._node.rearm()
            response.success, response.message = True, "armed"
        else:
            self.estopped = was
            response.success, response.message = False, f"still stopped: {problem}"
        return response

    def _on_dump(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        path = self._node.dump("request")
        response.success = path is not None
        response.message = "nothing to record, or busy" if path is None else str(path)
        return response
