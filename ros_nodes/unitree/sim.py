"""unitree_sim: a simulated Go2 on Unitree's own wire. `ros2 run dime_robot unitree_sim`.

It rehearses a driver before a robot does: a MuJoCo Go2 that sends LowState, takes LowCmd, and
answers the services `motion_switcher` and `sport`. At first the robot's own controller has the
motors. A LowCmd is checked (ros_nodes/unitree/sim_checks.py) and counted; one that is wrong, or
comes before the motors are released, is not followed. The motors have torque only while commands
are fresh, then they are limp: what a Go2 does without commands is not published, and this is the
worst of what it may do. Every second one line of JSON says what came and how the robot moves.

    ros2 run dime_robot unitree_sim --ros-args -p interface:=lo -p robot_domain:=1

While it runs it takes lines from its standard input, or the parameters of these names:

    fault FAULT     see ros_nodes/unitree/sim_wire_faults.py; without a FAULT: none
    remote WORDS    what is held on the wireless remote: L1 A ly=0.5; on: nothing; empty: it is off
"""

from __future__ import annotations

if __name__ == "__main__":
    from dime_robot.runtime.io.extras import require_extras

    require_extras(eval=("mujoco", "gymnasium"), ros=("rclpy",))

import math
import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from dime_robot.runtime.io.errors import InputError
from dime_robot.runtime.unitree.driver_loop import MotorTargets
from dime_robot.runtime.unitree.low_cmd_writer import LowCmdWriter
from dime_robot.runtime.unitree.low_level import (
    FOC,
)
from ros_nodes.parameters import (
    UnitreeSimParameters,
    help_asked,
    help_of,
    limits_of,
    read_parameters,
    require_known_parameters,
)
from ros_nodes.process import StopSignal, run_node
from ros_nodes.topic_watch import GID_BYTES
from ros_nodes.unitree.dds_profile import use_robot_profile
from ros_nodes.unitree.messages import (
    low_cmd_type,
    low_state_type,
    request_type,
    require_known_layout,
    response_type,
)
from ros_nodes.unitree.sim_checks import CommandChecks, WrongCommand
from ros_nodes.unitree.sim_input import InputLines
from ros_nodes.unitree.sim_report import BEFORE_RELEASE, SimReport
from ros_nodes.unitree.sim_robot import TIMESTEP, MotorCommand, SimRobot
from ros_nodes.unitree.sim_services import MODES, SERVICES, SimServices
from ros_nodes.unitree.sim_state import SimState, remote_bytes
from ros_nodes.unitree.sim_wire_faults import WireFault

STEPS = 2  # of the simulation, between two looks at the wire
MAX_LAG = 0.05  # [s] behind the wall clock before the lost time is dropped
REPORT_PERIOD = 1.0  # [s]
QUIET_TIME = 0.3  # [s] without a command after which no driver commands any more
MAX_REST_TIME = 10.0  # [s] of further running at the end while a driver still commands
WRITER_PERIOD, WRITER_DAMPING = 0.01, 3.0  # [s], [N m s/rad] of the fault `writer`
COMMAND_TOPIC, STATE_TOPIC = "lowcmd", "lowstate"
# Unitree's own simulator writes reliably and reads with best effort
READ_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=50, reliability=ReliabilityPolicy.BEST_EFFORT
)
WRITE_QOS = QoSProfile(depth=1)


class UnitreeSim(Node):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("unitree_sim")
        self.exit_code: int | None = None
        self.stop: StopSignal | None = None  # see `process.run_node`
        given = read_parameters(self, UnitreeSimParameters, self._set)
        require_known_parameters(self)
        _require_early(given)
        require_known_layout()
        self._kind, self._timeout = low_cmd_type(), given.command_timeout
        self._robot = SimRobot(given.start == "standing")
        mode = "" if given.mode == "none" else given.mode
        self._own = SimServices(self._robot, mode)
        self._state = SimState(self._robot, given.state_crc == "sealed", given.seed)
        self._checks = CommandChecks()
        file = Path(given.report).expanduser() if given.report else None
        self._report = SimReport(self._robot, file)
        self._fault, self._damping = WireFault(""), _damping()
        self._faulty_writer: Publisher[Any] | None = None
        self._faulty_due = 0.0  # simulated time [s]
        self._apply("remote", given.remote)
        self._apply("fault", given.fault)
        self._input = InputLines()
        self._state_period = 1 / given.state_rate
        self._command: MotorCommand | None = None  # the newest that was followed
        self._command_at = -math.inf  # steady [s]
        self._fresh = False
        self._mode = 0  # of the motors, as they report it
        self._states: Publisher[Any] = self.create_publisher(
            low_state_type(), STATE_TOPIC, WRITE_QOS
        )
        self._responses = {}
        for service in SERVICES:
            self._responses[service] = self.create_publisher(
                response_type(), f"api/{service}/response", 10
            )
            callback = partial(self._on_request, service)
            self.create_subscription(request_type(), f"api/{service}/request", callback, READ_QOS)
        if given.silent_writer:
            self.create_publisher(low_cmd_type(), COMMAND_TOPIC, WRITE_QOS)
        # rclpy's executor gives no ids of publishers: messages are taken directly, see topic_watch
        self._wire = Node(
            "_unitree_sim_wire",
            context=self.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._commands: Any = self._wire.create_subscription(
            self._kind, COMMAND_TOPIC, lambda _: None, READ_QOS
        )
        self._due = time.monotonic()
        self._state_due = 0.0  # simulated time [s]
        self._report_due = self._due + REPORT_PERIOD
        self.get_logger().info(
            f"a Go2 on domain {given.robot_domain}, {given.interface}: its own controller"
            f" {given.mode} has the motors"
        )

    def _set(self, parameters: Sequence[Parameter[Any]]) -> str:
        """Apply parameters; return why they are refused, empty: they are not."""
        try:
            for parameter in parameters:
                self._apply(parameter.name, str(parameter.value))
        except InputError as error:
            return str(error)
        return ""

    def _apply(self, name: str, text: str) -> None:
        """Apply one parameter that may change; others have no effect here.

        Raises:
            InputError: its value is wrong.
        """
        if name == "remote":
            remote_bytes(text, np.zeros(4))
            self._state.remote = text
        if name == "fault":
            self._fault = fault = WireFault(text)
            self._own.keeps_mode = fault.kind == "mode_stays"
            if fault.kind == "mode_back":
                self._own.select(MODES[0])
            if self._faulty_writer is not None:
                self.destroy_publisher(self._faulty_writer)
                self._faulty_writer = None
            if fault.kind == "writer":
                self._faulty_writer = self.create_publisher(self._kind, COMMAND_TOPIC, WRITE_QOS)

    def _read_input(self) -> None:
        for line in self._input.read():
            name, _, text = line.partition(" ")
            try:
                if name not in ("fault", "remote"):
                    raise InputError(f"expected a line fault FAULT or remote WORDS, got {line!r}")
                self._apply(name, text.strip())
            except InputError as error:
                self.get_logger().error(str(error))

    # ---- messages

    def _on_request(self, service: str, request: Any) -> None:
        identity = request.header.identity
        code, data = self._own.respond(service, identity.api_id, request.parameter)
        if request.header.policy.noreply or self._fault.kind == "no_answer":
            return
        response = response_type()()
        response.header.identity = identity
        response.header.status.code, response.data = code, data
        self._responses[service].publish(response)

    def _take_commands(self) -> None:
        """Take all commands that have come; the newest correct one is followed."""
        with self._commands.handle:
            while True:
                taken = self._commands.handle.take_message(self._kind, True)
                if taken is None:
                    return
                data, info = taken
                writer = bytes(info["publisher_gid"]["data"])[:GID_BYTES]
                self._report.arrived(writer, info["received_timestamp"] * 1e-9)
                self._follow(self._checks.read(bytes(data)))

    def _follow(self, command: MotorCommand | WrongCommand) -> None:
        if isinstance(command, MotorCommand) and self._own.mode:
            text = f"{self._own.mode} has the motors"
            command = WrongCommand(BEFORE_RELEASE, text)
        if isinstance(command, WrongCommand):
            self._report.refused(command)
            return
        self._report.took(command)
        self._command, self._command_at = command, time.monotonic()

    # ---- physics

    def wait(self) -> float:
        """See `process.Running`."""
        return self._due - time.monotonic()

    def tick(self) -> None:
        """See `process.Running`."""
        now = time.monotonic()
        if now - self._due > MAX_LAG:
            self._report.dropped += now - self._due
            self._due = now
        while self._due <= now:
            self._take_commands()
            for _ in range(STEPS):
                self._robot.step(self._motor_command())
                self._due += TIMESTEP
            if self._robot.time >= self._state_due - TIMESTEP / 2:
                self._state_due += self._fault.period(self._state_period)
                self._send_state()
            if self._faulty_writer is not None and self._robot.time >= self._faulty_due:
                self._faulty_due = self._robot.time + WRITER_PERIOD
                self._faulty_writer.publish(self._damping)
        self._read_input()
        if now >= self._report_due:
            self._report_due = max(now, self._report_due + REPORT_PERIOD)
            self._write_report()

    def _motor_command(self) -> MotorCommand | None:
        """Return what the motors follow in this step; None: they are limp."""
        own = self._own.command()
        if own is not None:
            self._fresh, self._mode = False, FOC
            self._command, self._command_at = None, -math.inf
            return own
        fresh = self._age <= self._timeout
        if fresh:
            self._mode = FOC
        elif self._fresh:
            self._report.timeouts += 1
        elif self._command is None:
            self._mode = 0
        self._fresh = fresh
        return self._command if fresh else None

    @property
    def _age(self) -> float:
        """Of the newest command, at the step that is due: one that is late misses none [s]."""
        return max(0.0, self._due - self._command_at)

    def _send_state(self) -> None:
        self._state.fill(self._mode)
        self._fault.alter(self._state.fields)
        data = self._fault.damage(self._state.sealed())
        if data is not None:
            self._states.publish(data)
            self._report.states += 1

    def _write_report(self) -> None:
        line = self._report.line(time.monotonic(), self._own.mode, self._age, self._fault.text)
        self._report.write(line)

    def close(self) -> None:
        """See `process.Running`: go on while commands come, then write the last report."""
        until = time.monotonic() + (MAX_REST_TIME if self.stop and self.stop.requests else 0.0)
        while self._age < QUIET_TIME and time.monotonic() < until:
            self.tick()
            time.sleep(max(0.0, self.wait()))
        self._write_report()
        self._wire.destroy_node()


def _damping() -> bytes:
    """Return the LowCmd of another program, which damps the motors."""
    targets = MotorTargets()
    targets.damping[:] = WRITER_DAMPING
    return LowCmdWriter().write(targets)


def _early(arguments: Sequence[str]) -> UnitreeSimParameters:
    """Return the parameters that are needed before a node exists, the others at their defaults.

    Args:
        arguments: of the process.
    """
    given: dict[str, Any] = {}
    for option, word in pairwise(arguments):
        name, assigned, value = word.rpartition(":=")
        name = name.rpartition(":")[2]  # a node's name may stand before it
        if option not in ("-p", "--param") or not assigned:
            continue
        if name == "interface":
            given[name] = value.strip("'\"")
        if name == "robot_domain" and value.isdecimal():
            given[name] = int(value)
    return UnitreeSimParameters(**given)


def _require_early(given: UnitreeSimParameters) -> None:
    """Refuse an interface or a domain that came too late.

    Raises:
        InputError: it is not on the command line.
    """
    early = _early(sys.argv)
    if (early.interface, early.robot_domain) != (given.interface, given.robot_domain):
        raise InputError(
            "parameters interface, robot_domain: expected them on the command line, got them from"
            " elsewhere, where they are read too late: -p interface:=NAME -p robot_domain:=NUMBER",
            code="parameter",
        )


def main() -> int:
    """Run until a signal."""
    if help_asked(sys.argv[1:]):
        print(help_of(__doc__ or "", UnitreeSimParameters))
        return 0
    early = _early(sys.argv)
    try:
        low, high = limits_of(UnitreeSimParameters, "robot_domain")
        if not low <= early.robot_domain <= high:
            raise InputError(
                f"parameter robot_domain: expected {low:g} to {high:g}, got {early.robot_domain}"
            )
        profile = use_robot_profile(early.interface, hears_all=True)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ["ROS_DOMAIN_ID"] = str(early.robot_domain)
    try:
        return run_node(UnitreeSim)
    finally:
        profile.remove()


if __name__ == "__main__":
    sys.exit(main())
