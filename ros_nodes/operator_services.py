"""The services of policy_node for its operator.

~/estop, ~/reset_estop and ~/dump; of a robot with phases ~/stand_up, ~/run_policy and ~/sit_down;
with several policies ~/select/NAME of each.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from dime_robot.runtime.control.control_loop import GOALS, ControlLoop
from dime_robot.runtime.control.flight_recorder import Dump
from dime_robot.runtime.control.phases import Goal


class Operated(Protocol):
    """The methods of a node that the services call."""

    def estop(self) -> None:
        """Stop now and stay stopped."""

    def reset(self) -> str:
        """Release the stop.

        Returns:
            Why it is not released; empty: it is.
        """

    @property
    def commands(self) -> bool:
        """Whether a robot is commanded."""

    def dump(self, why: str) -> Dump | None:
        """Begin to write a recording; None: there is no policy."""

    def request(self, goal: Goal) -> str:
        """Stand up, run the policy, or sit down.

        Returns:
            Why that is refused, as a sentence; empty: it begins.
        """

    def select(self, name: str) -> str:
        """Let another policy act.

        Returns:
            Why that is refused, as a sentence; empty: it acts from the next step on.
        """


class OperatorServices:
    """Provides the services in any state of the lifecycle."""

    def __init__(self, owner: Node, node: Operated) -> None:
        self._owner, self._node = owner, node
        self._offered: list[Any] = []  # services of the policies and phases that are loaded
        self._services = [
            owner.create_service(Trigger, "~/estop", self._on_estop),
            owner.create_service(Trigger, "~/reset_estop", self._on_reset),
        ]
        owner.create_service(Trigger, "~/dump", self._on_dump)
        self._waiting: list[tuple[Dump, Any]] = []  # recordings whose callers wait for the response

    def offer(self, loop: ControlLoop) -> None:
        """Provide the services of a robot's phases and policies, as long as they are loaded."""
        if loop.controller.phases.exists:
            for name, goal in GOALS.items():
                self._provide(name, partial(self._node.request, goal))
        if len(loop.controller.policies) > 1:
            for name in loop.controller.policies:
                self._provide(f"select/{name}", partial(self._node.select, name))

    def withdraw(self) -> None:
        """End what `offer` began."""
        for service in self._offered:
            self._owner.destroy_service(service)
        self._offered = []

    def _provide(self, name: str, request: Callable[[], str]) -> None:
        def respond(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            problem = request()
            response.success, response.message = not problem, problem or "accepted"
            return response

        self._offered.append(self._owner.create_service(Trigger, f"~/{name}", respond))

    def poll(self) -> None:
        """Respond to the callers of ~/dump whose recordings have been written."""
        for dump, future in self._waiting:
            if dump.done:
                future.set_result(None)
        self._waiting = [(dump, future) for dump, future in self._waiting if not dump.done]

    def serve(self) -> None:
        """Handle calls of ~/estop and ~/reset_estop in a callback, where no executor can run."""
        for service in self._services:
            with service.handle:
                taken = service.handle.service_take_request(service.srv_type.Request)
            if taken is None or taken[0] is None:
                continue
            request, header = taken
            response = service.callback(request, service.srv_type.Response())
            service.send_response(response, header)

    def _on_estop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._node.estop()
        response.success, response.message = True, "stopped; ~/reset_estop re-arms"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        problem = self._node.reset()
        response.success = not problem
        response.message = f"still stopped: {problem}"
        if not problem:
            response.message = "armed" if self._node.commands else "reset"
        return response

    async def _on_dump(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Respond once the file is written or has failed; the control loop continues meanwhile."""
        dump = self._node.dump("request")
        if dump is None:
            response.success, response.message = False, "nothing to record: not configured"
            return response
        if not dump.done:
            future: Any = Future()
            self._waiting.append((dump, future))
            await future
        response.success = not dump.error
        response.message = dump.error or str(dump.path)
        return response
