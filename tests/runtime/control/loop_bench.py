"""A control loop, a robot that the test plays, and clocks that only the test moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dime_robot.runtime.contract.policy_spec import FloatArray, PolicySpec
from dime_robot.runtime.control.control_loop import ControlLoop, GraphView, Mode, Reading
from dime_robot.runtime.control.controller import Controller
from dime_robot.runtime.control.safety_filter import Decision
from tests.runtime.machines import UPRIGHT, ScriptedPolicy, T, make_robot, make_spec

ALONE = GraphView(listeners=("/robot",))
ROBOT_EPOCH = 1000.0  # [s] of the robot's clock at the start of ours


class LoopBench:
    """One machine of `machines`, by default with readings at the policy's rate.

    Args:
        kind: of its commands.
        respond: observation -> action in [-1, 1].
        by_reading: what begins a step.
        spec: changes of the contract.
        others: further policies, by name, between which it can be switched.
        robot: changes of the machine.
    """

    def __init__(
        self,
        kind: str = "position",
        respond: Callable[[FloatArray], Any] | None = None,
        by_reading: bool = True,
        spec: dict[str, Any] | None = None,
        publishes: bool = True,
        others: Callable[[PolicySpec], dict[str, ScriptedPolicy]] | None = None,
        **robot: Any,
    ) -> None:
        self.now, self.offset = 0.0, ROBOT_EPOCH
        self.spec = make_spec(kind, **(spec or {}))
        self.robot = make_robot(kind, **robot)
        self.policy = ScriptedPolicy(self.spec, respond, self.robot.command.interpolated)
        self.policies = {"first": self.policy, **(others(self.spec) if others else {})}
        given = self.policies if others else self.policy
        self.controller = Controller(given, self.robot, lambda: self.now)
        self.loop = ControlLoop(
            self.controller,
            by_reading,
            lambda: self.now,
            lambda: self.now + self.offset,
            publishes=publishes,
        )
        # wrist, wheel, rail: the default pose
        self.position = np.array([0.5, 0.0, 0.25])
        self.velocity = np.zeros(3)
        self.orientation = UPRIGHT
        self.follows = False  # the robot is where it was commanded to be
        self.view = ALONE
        self.decisions: list[tuple[float, Decision]] = []
        self.between: list[tuple[float, FloatArray]] = []  # commands between two steps

    # ---- what happens

    def take(self, decision: Decision | None) -> Decision | None:
        if decision is not None:
            self.loop.record(decision)
            self.decisions.append((self.now, decision))
        return decision

    def read(self, stamp: float | None = None, **changes: Any) -> Decision | None:
        """A message of the joints."""
        stamp = self.now + self.offset if stamp is None else stamp
        if self.loop.needs_imu:
            self.take(self.loop.imu(stamp, self.orientation, np.zeros(3)))
        position = np.array(changes.pop("position", self.position), dtype=float)
        velocity = np.array(changes.pop("velocity", self.velocity), dtype=float)
        return self.take(self.loop.joint_state(Reading(stamp, position, velocity, **changes)))

    def poll(self) -> Decision | None:
        decision = self.take(self.loop.poll())
        if (between := self.loop.command_between()) is not None:
            self.between.append((self.now, between.value))
        return decision

    def update_graph(self, **changes: Any) -> Decision | None:
        self.view = self.view._replace(**changes) if changes else self.view
        decision = self.take(self.loop.graph(self.view))
        self.view = self.view._replace(rival_messages=0)
        return decision

    def run(self, periods: float, step: float = 1.0, read: bool = True) -> LoopBench:
        """Let time pass, with polls four times a period and a reading every `step` periods."""
        until, next_read = self.now + periods * T, self.now + step * T
        while self.now < until - T / 8:
            self.now += T / 4
            if read and self.now >= next_read - T / 8:
                next_read += step * T
                self.jiggle()
                self.read()
            self.poll()
        return self

    def jiggle(self) -> None:
        """Real encoders are never still to the last bit."""
        if self.follows and self.decisions:
            self.position = self.last.command.value.copy()
        self.velocity = self.velocity + 1e-9 * (1 + len(self.decisions) % 3)

    def activate(self) -> LoopBench:
        """Watch for a while, then activate; fails where something stands against it."""
        self.run(80)
        return self.activate_now()

    def activate_now(self) -> LoopBench:
        """The same after a watch of the test's own."""
        self.update_graph()
        problem = self.loop.activation_problem()
        assert not problem, problem
        self.loop.activate()
        self.poll()
        assert self.loop.mode == Mode.ACTIVE
        return self

    # ---- what came of it

    @property
    def last(self) -> Decision:
        return self.decisions[-1][1]

    @property
    def sent(self) -> list[FloatArray]:
        return [d.command.value for _, d in self.decisions if d.sent]

    @property
    def commands(self) -> list[tuple[float, FloatArray]]:
        """All that were sent, those between two steps included, in order."""
        of_steps = [(when, d.command.value) for when, d in self.decisions if d.sent]
        return sorted([*of_steps, *self.between], key=lambda command: command[0])

    def levels(self, since: int = 0) -> list[str]:
        return [d.level.name for _, d in self.decisions[since:]]

    @property
    def why(self) -> str:
        return self.loop.explain(self.last.faults)
